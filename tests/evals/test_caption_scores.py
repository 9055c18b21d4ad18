"""Scores of captions: what pycocoevalcap gives five pictures, and what follows from the rules."""

import json
import pathlib

import numpy as np
import pytest

from vlp_jax.evals.kits.caption_scores import bleu, cider_d, rouge_l
from vlp_jax.evals.kits.ptb import tokenize

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "captions" / "scores.json").read_text()
)
HYPOTHESES = [texts[0] for texts in GOLDEN["tok_hyps"].values()]
REFERENCES = list(GOLDEN["tok_refs"].values())


def test_words_of_the_golden_captions():
    raw = [text for kind in ("raw_refs", "raw_hyps") for t in GOLDEN[kind].values() for text in t]
    cut = [text for kind in ("tok_refs", "tok_hyps") for t in GOLDEN[kind].values() for text in t]
    assert [tokenize(text) for text in raw] == cut


@pytest.mark.parametrize(
    ("score", "name"), [(bleu, "bleu"), (rouge_l, "rouge_l"), (cider_d, "cider_d")]
)
def test_scores_equal_pycocoevalcap(score, name):
    found = score(HYPOTHESES, REFERENCES)
    np.testing.assert_allclose(found.corpus, GOLDEN[name]["corpus"], atol=1e-9)
    np.testing.assert_allclose(found.each.T, GOLDEN[name]["per_image"], atol=1e-9)


def test_bleu_takes_the_nearest_length_the_shorter_of_two():
    near = bleu(["a b c d"], [["a b", "a b c d e f"]])
    assert near.corpus[0] == pytest.approx(1, abs=1e-8)  # two words away both ways: no brevity
    short = bleu(["a b c"], [["a b", "a b c d e f"]]).corpus
    assert short[0] == pytest.approx(1, abs=1e-8)
    long = bleu(["a b c"], [["a b c d e f"]]).corpus
    assert long[0] == pytest.approx(np.exp(-1), abs=1e-8)
    assert bleu(["a a a a"], [["a b", "a a c"]]).corpus[0] == pytest.approx(0.5, abs=1e-8)


def test_bleu_of_a_set_is_no_mean():
    found = bleu(["a b c d", "x"], [["a b c d"], ["y"]])
    assert found.corpus[0] == pytest.approx(4 / 5, abs=1e-8)
    assert found.each[:, 0] == pytest.approx([1, 0], abs=1e-8)


def test_rouge_takes_precision_and_recall_from_two_references():
    found = rouge_l(["a b c d"], [["a b", "a b c d x x x x"]]).corpus
    assert found == pytest.approx(1)  # recall of the first, precision of the second
    assert rouge_l(["a x b"], [["a b"]]).corpus == pytest.approx(2.44 * 2 / 3 / (1 + 1.44 * 2 / 3))
    assert rouge_l([""], [["a b"]]).corpus == 0


def test_cider_weighs_by_pictures():
    """Equal pairs give 10, one picture alone 0, and what all pictures have counts nothing."""
    pair = ["a b c d e", "f g h i j"]
    assert cider_d(pair, [[text] for text in pair]).each == pytest.approx([10, 10])
    assert cider_d(["a b c d e"], [["a b c d e"]]).corpus == 0
    shared = cider_d(["a", "a b"], [["a", "a c"], ["a b"]])
    assert shared.each[0] == 0 and shared.each[1] > 0
    twice = cider_d(["x x x x", "y"], [["x x"], ["y"]]).each[0]
    cosines = (2 * 2 / (4 * 2) + 1 * 1 / (3 * 1)) / 4  # no more than the reference has; n = 1, 2
    assert twice == pytest.approx(10 * cosines * np.exp(-(2**2) / 72))


def test_a_picture_without_references_is_named():
    for score in (bleu, rouge_l, cider_d):
        with pytest.raises(ValueError, match="picture 1 has no reference"):
            score(["a", "b"], [["a"], []])
        with pytest.raises(ValueError, match="0 captions"):
            score([], [])

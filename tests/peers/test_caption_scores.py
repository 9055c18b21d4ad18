"""Words and scores of captions against pycocoevalcap, live; the words need Java."""

import pathlib
import random
import runpy
import shutil

import numpy as np
import pytest

from vlp_jax.evals.kits.caption_scores import bleu, cider_d, rouge_l
from vlp_jax.evals.kits.ptb import tokenize

pytest.importorskip("pycocoevalcap", reason="needs `pip install pycocoevalcap`")
MAKER = pathlib.Path(__file__).parents[1] / "golden" / "make_caption_golden.py"
WORDS = "a the dog cat runs on grass red big bus in of 's n't man woman sits near table by".split()  # noqa: SIM905


def captions(count, seed):
    """Captions of few words, one to six references each; each seventh caption is one of them."""
    rng = random.Random(seed)

    def caption():
        return " ".join(rng.choice(WORDS) for _ in range(rng.choice((0, 3, 5, 8, 12))))

    references = [[caption() for _ in range(rng.randint(1, 6))] for _ in range(count)]
    hypotheses = [refs[0] if i % 7 == 0 else caption() for i, refs in enumerate(references)]
    return hypotheses, references


@pytest.mark.parametrize("count", [1, 2, 300])
def test_scores(count):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    hypotheses, references = captions(count, seed=count)
    ids, told = range(count), {i: [text] for i, text in enumerate(hypotheses)}
    wanted = dict(zip(ids, references, strict=True))
    for ours, theirs in ((bleu, Bleu(4)), (rouge_l, Rouge()), (cider_d, Cider())):
        corpus, each = theirs.compute_score(wanted, told)
        found = ours(hypotheses, references)
        np.testing.assert_allclose(found.corpus, corpus, atol=1e-9)
        np.testing.assert_allclose(found.each.T, each, atol=1e-9)


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_words_of_4000_odd_captions():
    maker = runpy.run_path(str(MAKER))
    texts = maker["odd_captions"](4_000, seed=1)
    found = zip(texts, maker["java_words"](texts), strict=True)
    different = [(text, want, tokenize(text)) for text, want in found if tokenize(text) != want]
    assert not different, f"{len(different)} differ, first: {different[0]}"

"""Which words an example shows: choice, dropout, templates, each from its own stream."""

import functools
from collections import Counter

import numpy as np
import pytest

from vlp_jax.data.caption import MAX_CHARACTERS, CaptionSpec, choose_caption
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.order import example_rng
from vlp_jax.data.source import captions_of


def test_captions_of():
    assert captions_of("a ", {"captions": ["a", "b", 3, " "]}) == ["a", "b"]
    assert captions_of(None, {"caption": "c"}) == ["c"]
    assert captions_of("t", {"caption": "c"}) == ["t"]
    assert captions_of(" ", {}) == []


EXAMPLE = {"key": "k", "text": ["one two three", "four"], "meta": {}}
EXAMPLE["meta"] = {"tags": ["x", "y"], "n": 5, "said": ["yes", True]}


def stream(position):
    return functools.partial(example_rng, 0, 0, position)


def test_caption_choice():
    def pick(spec, seed=0):
        return choose_caption(EXAMPLE, spec, stream(seed))

    assert pick(CaptionSpec("first")) == "one two three"
    assert pick(CaptionSpec("all")) == "one two three four"
    drawn = Counter(pick(CaptionSpec("random"), s) for s in range(400))
    assert 150 < drawn["four"] < 250
    assert {pick(CaptionSpec("tags"), s) for s in range(20)} == {"x", "y"}
    assert pick(CaptionSpec("n", ("{c}!", "{c}!"))) == "5!"
    with pytest.raises(DamagedSample, match="no_caption"):
        pick(CaptionSpec("nothing"))
    with pytest.raises(DamagedSample, match="boolean_text"):
        pick(CaptionSpec("said"))


def test_word_dropout_drops_its_share_and_never_all():
    spec = CaptionSpec("first", word_dropout=0.4)
    words = [choose_caption(EXAMPLE, spec, stream(s)).split() for s in range(500)]
    assert min(map(len, words)) == 1
    almost = CaptionSpec("first", word_dropout=1 - 1e-9)
    assert {choose_caption(EXAMPLE, almost, stream(s)) for s in range(5)} == {"one"}
    assert abs(np.mean([len(w) for w in words]) - (1.8 + 0.4**3)) < 0.12


def test_very_long_captions_are_clipped_and_counted():
    clipped: Counter = Counter()
    example = {"key": "k", "text": ["x" * 50_000], "meta": {}}
    text = choose_caption(example, CaptionSpec("first"), stream(0), clipped)
    assert len(text) == MAX_CHARACTERS and clipped == {"long_caption": 1}


def test_a_draw_more_in_one_place_moves_no_other():
    """Caption, dropout and template one by one against all together."""
    choice, templates = ["a b c d", "e f g h", "i j k l"], tuple(f"{i} {{c}}" for i in range(9))
    example = {"key": "k", "text": choice, "meta": {}}
    for position in range(50):
        pick = lambda *spec, at=position: choose_caption(example, CaptionSpec(*spec), stream(at))  # noqa: E731
        number, *words = pick("random", templates, 0.5).split()
        assert pick("first", templates).split()[0] == number
        chosen = pick("random")
        dropped = pick("first", (), 0.5).split()  # places kept, as letters of the first caption
        assert words == [chosen.split()["abcd".index(letter)] for letter in dropped]


def test_a_caption_that_cleaning_empties_is_none():
    blank = lambda text: text == "four"  # noqa: E731
    first, spec = CaptionSpec("first", ("{c}!",)), CaptionSpec("random", ("{c}!",))
    assert choose_caption(EXAMPLE, first, stream(0), None, blank) == "one two three!"
    with pytest.raises(DamagedSample, match="empty_caption"):
        for position in range(20):
            choose_caption(EXAMPLE, spec, stream(position), None, blank)

"""Words of captions against those that Java's tokenizer found, and its rules by example."""

import gzip
import json
import pathlib

import pytest

from vlp_jax.evals.kits.ptb import tokenize

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "captions" / "words.json.gz"


def test_500_odd_captions():
    golden = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    different = [(text, want, tokenize(text)) for text, want in golden if tokenize(text) != want]
    assert len(golden) == 500 and not different, different[:3]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", ""),
        (" . ! ", ""),
        ("It's the dogs' toy, isn't it?", "it 's the dogs toy is n't it"),
        ("I cannot; they're gonna!", "i can not they 're gon na"),
        ("rock 'n' roll, O'Hara's", "rock 'n' roll o'hara 's"),
        ("a (red) [big] {bus}", "a -lrb- red -rrb- -lsb- big -rsb- -lcb- bus -rcb-"),
        ("Mr. X of the U.S., No. 5", "mr. x of the u.s. no. 5"),
        ("No. It is plan B. It is", "no it is plan b it is"),
        ("$3,000.50 or 50% of #1", "$ 3,000.50 or 50 % of # 1"),
        ("“curly” ‘quotes’ don’t", "curly quotes do n't"),
        ("two\nlines\rof\u2028text", "two lines of text"),
        ("what?! -- a/b, A+ ... 3 1/2", "what ?! a/b a + 3\u00a01/2"),
        ("\U0001f600smile\u200bhere\x00", "smile here"),
    ],
)
def test_rules(text, want):
    assert tokenize(text) == want


def test_words_stay_words():
    """What is cut once is cut alike again, but for marks that stand for what they were not."""
    text = "a man 's red-haired dog is n't at 10:30 in the u.s. with 50 % of -lrb- it -rrb-"
    assert tokenize(text) == text

"""New words of a tokenizer: one id each, wherever they stand, whatever the cleaning."""

import pickle

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from vlp_jax.core.errors import UserError
from vlp_jax.data.text import load_tokenizer


def test_ids_come_after_those_that_were_there():
    plain, grown = (
        load_tokenizer("clip", 16, **how) for how in ({}, {"new": ("<Tint>=Red", "<sks>")})
    )
    assert (plain.vocab_size, grown.vocab_size) == (49408, 49410)
    cat, car = plain.encode("A cat"), plain.encode("car!")
    assert grown.encode("A cat <Tint>car!") == [*cat, 49408, *car]
    assert grown.encode("A cat car!") == plain.encode("A cat car!")
    assert grown.encode("<sks><Tint>") == [49409, 49408]
    assert grown.encode("<tint>") == plain.encode("<tint>"), "as it is written"
    assert grown.starts == (tuple(plain.encode("red")), ())
    row = grown("A cat <Tint>car!")[0]
    assert row[0] == plain.sot_id and row[len(cat) + len(car) + 2] == plain.eot_id
    assert grown.decode(row) == "a cat <Tint> car !"
    assert grown.mask(row[None]).sum() == len(cat) + len(car) + 3
    assert grown.overlong(["cat <Tint> " * 8], grown(["cat <Tint> " * 8])) == 1
    assert grown.fingerprint != plain.fingerprint
    again = pickle.loads(pickle.dumps(grown))
    assert again.fingerprint == grown.fingerprint and again.encode("<sks>") == [49409]


def test_a_word_of_several_rows_is_said_once():
    grown = load_tokenizer("bytes", 16, new=("<c>", "<c>_1", "<c>_2", "<d>"))
    first = load_tokenizer("bytes", 16).vocab_size
    assert grown.encode("<c> <d>") == [first, first + 1, first + 2, first + 3]
    assert grown.encode("<c>_2") == [first + 2]


def test_mistakes():
    with pytest.raises(UserError, match=r"tokenizer_options.new: 'a' is empty or there twice"):
        load_tokenizer("bytes", 16, new=("a", "a=b"))
    with pytest.raises(UserError, match="' ' is empty"):
        load_tokenizer("bytes", 16, new=(" ",))
    with pytest.raises(UserError, match="'red' is a word already; take another, as '<red>'"):
        load_tokenizer("clip", 16, new=("red=thing",))
    assert np.array_equal(load_tokenizer("bytes", 8, new=())("x"), load_tokenizer("bytes", 8)("x"))


def test_where_texts_are_as_they_are_spaces_beside_new_words_count(tmp_path):
    """As transformers' added tokens: LLaMA marks only where a text begins, GPT-2 keeps spaces."""
    model = models.BPE({"</s>": 0, "▁": 1, "a": 2, "▁a": 3}, [("▁", "a")])
    for scheme, wanted in (("first", [3, 4, 2, 1, 5]), ("always", [3, 4, 3, 1, 5])):
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        made.save(str(tmp_path / f"{scheme}.json"))
        how = dict(clean="none", new=("<n>", "<n>_1", "<m>"))
        grown = load_tokenizer(str(tmp_path / f"{scheme}.json"), 16, **how)
        assert grown.encode("a<n>a <m>") == [*wanted[:2], 5, *wanted[2:4], 6]
        assert grown.encode("a<n>", 2) == [3, 4] and grown("a")[0, :2].tolist() == [3, 0]
        assert pickle.loads(pickle.dumps(grown)).encode("a<n>_1") == [3, 5]

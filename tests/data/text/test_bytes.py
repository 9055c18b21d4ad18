"""Byte tokenizer: ids, cuts, the end as largest id, and the errors of load_tokenizer."""

import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.data.text import load_tokenizer


def test_ids_are_bytes_plus_one_between_start_and_end():
    tokenizer = load_tokenizer("bytes", 8)
    assert tokenizer(["aé"]).tolist() == [[257, 98, 196, 170, 258, 0, 0, 0]]
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.sot_id, tokenizer.eot_id) == (
        259,
        0,
        257,
        258,
    )


def test_the_end_is_the_largest_id_and_last_when_cut():
    tokenizer = load_tokenizer("bytes", 16)
    rows = tokenizer(["", "a dog", "x" * 10_000, "\xff" * 20])
    assert (rows.max(-1) == tokenizer.eot_id).all() and rows.max() < tokenizer.vocab_size
    assert rows.argmax(-1).tolist() == [1, 6, 15, 15]


@pytest.mark.parametrize("text", ["a dog", "una niña 你好 😀", "Upper & lower", ""])
def test_decode_inverts_encode(text):
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.decode(tokenizer([text])[0]) == text


def test_broken_text_never_raises():
    tokenizer = load_tokenizer("bytes", 8, clean="none")
    assert tokenizer.decode(tokenizer(["\ud800x"])[0]) == "?x"
    assert (
        tokenizer.decode(tokenizer(["ab你好"])[0]) == "ab你\ufffd"
    )  # 8 - 2 bytes: cut inside the character


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clpi", "data.tokenizer='clpi' is unknown; did you mean 'clip'"),
        ("/nowhere/tokenizer.json", "no such file: /nowhere/tokenizer.json"),
        ("spm:/nowhere/a.model", "no such file: /nowhere/a.model"),
        ("", "data.tokenizer='' is unknown; valid: clip, bytes"),
        (None, "data.tokenizer=None is unknown"),
    ],
)
def test_unknown_tokenizers_are_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "77"])
def test_context_length_is_checked(length):
    with pytest.raises(UserError, match=r"data\.context_length="):
        load_tokenizer("bytes", length)

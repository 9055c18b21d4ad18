"""Learned words on a loaded model: a word with the rows of others reads as these."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlp_jax.api.model import load_model
from vlp_jax.api.words import with_words, write_words
from vlp_jax.core.errors import UserError
from vlp_jax.interop.learned_embeds import read_words, words_state


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(str(tiny_folder))


def rows(model, text):
    """Rows of a text's words."""
    table = np.asarray(model.params["text"]["token_embed"]["embedding"])
    return table[model.tokenizer().encode(text)]


def test_a_word_with_others_rows_reads_as_they_do(model, tmp_path):
    one, two = str(tmp_path / "one.safetensors"), str(tmp_path / "two.safetensors")
    save_file({"<red>": rows(model, "red")[0]}, one)
    save_file({"emb_params": rows(model, "small dog")}, two)
    grown = with_words(model, {one: "", two: "<pet>"})
    found = grown.embed_texts(["a <red> car", "<pet> and <red>", "a cat"])
    wanted = model.embed_texts(["a red car", "small dog and red", "a cat"])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert grown.tokenizer().encode("<pet>") == [49409, 49410]
    assert grown.method.text["vocab_size"] == 49411 and model.tokenizer().vocab_size == 49408
    new = grown.tokenizer_spec["options"]["new"]
    written = write_words(str(tmp_path / "out"), grown.params, new)
    assert list(written) == ["<red>", "<pet>"]
    name, back = read_words(str(tmp_path / "out" / "learned_embeds-pet.safetensors"))
    assert name == "<pet>"
    np.testing.assert_array_equal(back["text"], rows(model, "small dog"))


def test_both_encoders_of_xl():
    both = {"text": np.ones((2, 3), np.float32), "text_2": np.ones((2, 4), np.float32)}
    assert {k: v.shape for k, v in words_state("<a>", both).items()} == {
        "clip_l": (2, 3),
        "clip_g": (2, 4),
    }


def test_mistakes(model, tmp_path):
    path, width = str(tmp_path / "w.safetensors"), rows(model, "red").shape[1]
    wide, fit = np.zeros((1, width + 1), np.float32), np.zeros((1, width), np.float32)
    for state, message in (
        (
            {"<a>": wide},
            f"of another base, its rows have {width + 1} columns, those of 'text' {width}",
        ),
        ({"clip_l": fit, "clip_g": fit}, "has rows for 'text_2', the model has no such"),
        ({"emb_params": fit}, "has no name for its word"),
        ({"a": fit, "b": fit}, "holds a, b, and not the rows of one word"),
    ):
        save_file(state, path)
        with pytest.raises(UserError, match=message):
            with_words(model, {path: "<w>" if "clip_l" in state else ""})
    with pytest.raises(UserError, match="--to=learned_embeds: 0 new rows, 0 new words"):
        write_words(str(tmp_path / "out"), model.params, ())

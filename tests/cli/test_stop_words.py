"""Which ids a stop word is, of a vocabulary that tells a mark behind a word from one alone."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from vlp_jax.api.prompts import stop_ids
from vlp_jax.core.errors import UserError
from vlp_jax.data.text import load_tokenizer

PIECES = ["<unk>", "<s>", "</s>", "\u2581", "\u2581a", "\u2581.", ".", "!", "\u2581cat", "a", "\n"]


def test_a_mark_ends_a_text_where_it_stands_behind_a_word(tmp_path):
    """LLaMA's "." alone is a piece with a space, which no sentence ends with."""
    words = tokenizers.Tokenizer(models.Unigram([(one, -1.0) for one in PIECES], 0))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    words.save(str(tmp_path / "tokenizer.json"))
    known = load_tokenizer(str(tmp_path / "tokenizer.json"), 8, clean="none")
    named = {one: i for i, one in enumerate(PIECES)}
    assert known.encode("a.") == [named["\u2581a"], named["."]]
    assert set(stop_ids(known, ["."])) == {named["."], named["\u2581."]}
    assert stop_ids(known, ["!", "cat"]) == (named["!"], named["\u2581cat"])
    assert stop_ids(known, ["\n"]) == (named["\n"],)
    for word in ("", ".!"):
        with pytest.raises(UserError, match="is no single token"):
            stop_ids(known, [word])

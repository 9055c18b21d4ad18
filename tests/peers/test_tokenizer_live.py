"""CLIP ids against the installed open_clip and transformers, on captions of no golden file."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from vlp_jax.data.open import open_source
from vlp_jax.data.text import load_tokenizer
from vlp_jax.data.text.clean import repair
from vlp_jax.data.text.clip_bpe import byte_symbols, load_merges

MAKER = pathlib.Path(__file__).parents[1] / "golden" / "make_tokenizer_golden.py"


def _emoji_texts():
    metas = [open_source("builtin:emoji/noto-test").metadata(i)["meta"] for i in range(386)]
    return [
        text
        for m in metas
        for text in (m["emoji"], m["label"], m["label_es"], ", ".join(m["keywords_es"]))
    ]


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_ids_equal_open_clip(clean):
    tokenizer = pytest.importorskip(
        "open_clip.tokenizer", reason="needs open_clip_torch (extra peers)"
    )
    texts = runpy.run_path(str(MAKER))["odd_strings"](4_000, seed=1) + _emoji_texts()
    theirs = tokenizer.SimpleTokenizer(clean=clean)(texts).numpy()
    ours = load_tokenizer("clip", clean=clean)(texts)
    different = np.flatnonzero((theirs != ours).any(-1))
    assert not len(different), f"{len(different)} captions differ, first: {texts[different[0]]!r}"


def test_ids_equal_transformers(tmp_path):
    """transformers repairs no mojibake and no entities, so only plain captions are compared."""
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra peers)")
    symbols = byte_symbols()
    merges = load_merges()[2].decode().splitlines()
    words = symbols + [s + "</w>" for s in symbols] + ["".join(m.split(" ")) for m in merges]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    theirs = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    texts = [
        *_emoji_texts(),
        "it's the dogs' toy, they're 100% sure",
        "A  B\tC 12.5",
        "x" * 500,
        "word " * 200,
    ]
    ours = load_tokenizer("clip")
    plain = [text for text in texts if repair(text) == text]
    assert len(plain) > 1_000
    for text in plain:
        row = ours([text])[0].tolist()
        ids = theirs(text, truncation=True, max_length=77)["input_ids"]
        assert row[: len(ids)] == ids and not any(row[len(ids) :]), text

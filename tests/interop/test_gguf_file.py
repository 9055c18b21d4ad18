"""GGUF files without the package that reads them: names, halves of rotary pairs, tokenizer files;
what is refused."""

import json
import sys

import numpy as np
import pytest

from vlp_jax.api.convert import convert
from vlp_jax.core.errors import UserError
from vlp_jax.data.text import load_tokenizer
from vlp_jax.interop import gguf_file
from vlp_jax.interop.gguf_file import _config, _in_halves, _name, _tokenizer, _words

GGML = {
    "model": "gpt2", "pre": "smollm", "add_bos_token": False, "bos_token_id": 1, "eos_token_id": 0,
    "tokens": ["<end>", "<start>", "a", "b", "Ġ", "1", "ab", "Ġab"],
    "token_type": [3, 3, *[1] * 6], "merges": ["a b", "Ġ ab"],
}  # fmt: skip


def test_names():
    assert _name("f", "blk.12.attn_q.weight") == "model.layers.12.self_attn.q_proj.weight"
    assert _name("f", "blk.0.ffn_down.weight") == "model.layers.0.mlp.down_proj.weight"
    assert _name("f", "output_norm.weight") == "model.norm.weight"
    with pytest.raises(UserError, match=r"f: tensor 'blk\.0\.ssm_a\.weight' is not known"):
        _name("f", "blk.0.ssm_a.weight")


def test_pairs_of_neighbours_become_halves():
    """Of two heads of four rows: what turned with its neighbour turns with the row two below."""
    rows = np.arange(8)[:, None] * np.ones((1, 3))
    np.testing.assert_array_equal(_in_halves(rows, 2)[:, 0], [0, 2, 1, 3, 4, 6, 5, 7])


@pytest.mark.parametrize("start", [False, True])
def test_a_vocabulary_of_bytes(tmp_path, start):
    for name, content in (
        ("tokenizer.json", _tokenizer(GGML | {"add_bos_token": start})),
        ("tokenizer_config.json", _words(GGML)),
    ):
        (tmp_path / name).write_text(json.dumps(content))
    words = load_tokenizer(str(tmp_path / "tokenizer.json"), 12, clean="none")
    assert words.encode("ab ab11 ab<end>") == [6, 7, 5, 5, 7, 0]
    assert words.prefix == ((1,) if start else ()) and words.eot_id == 0
    assert words.decode([6, 7, 0, 2]) == "ab ab"


def test_sizes_are_those_of_the_file():
    said = {f"llama.{key}": 4 for key in gguf_file._CONFIG}
    said |= {"llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5))}
    said |= {"tokenizer.ggml.eos_token_id": 2}
    config = _config("f", said)
    assert config["rms_norm_eps"] == 1e-5 and config["eos_token_id"] == 2
    said.pop("llama.block_count")
    with pytest.raises(UserError, match=r"f: lacks llama\.block_count"):
        _config("f", said)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="needs the gguf package: pip install gguf"):
        convert(str(tmp_path / "x.gguf"), str(tmp_path / "out"))

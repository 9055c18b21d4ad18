"""GGUF files (llama.cpp) of LLaMA's architecture, unpacked to a folder as transformers writes them.

Quantised tensors become float32 by the `gguf` package, an extra. Queries and keys lie there so that
pairs of neighbours turn together (rotary positions), and are put back in halves. The file exists so
that such a file converts by the way of every other: nothing after this knows GGUF.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.interop.folder import write_json
from vlp_jax.interop.weights_file import write_safetensors

_CONFIG = {  # under `llama.`
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "rope.dimension_count": "head_dim",
}
_USUAL = {"rope.freq_base": 1e4, "rope.dimension_count": None, "vocab_size": 0}
_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{name}": f"self_attn.{name}_proj" for name in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_DIGITS = {"type": "Digits", "individual_digits": True}
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT = {"type": "Split", "pattern": {"Regex": _LLAMA_3}, "behavior": "Isolated", "invert": False}
_PIECES = {"gpt-2": [], "default": [], "smollm": [_DIGITS], "llama-bpe": [_SPLIT]}  # before bytes
_CONTROL, _OWN = 3, 4  # kinds of tokens that are found as they are


def unpack(path: str, folder: str) -> None:
    """Writes config.json, model.safetensors and, where the vocabulary is one of bytes, tokenizer
    files into a folder.

    Raises:
      UserError: without the gguf package, a file that is none or cut, another architecture.
    """
    try:
        import gguf
    except ImportError:
        raise UserError(f"{path}: needs the gguf package: pip install gguf") from None
    try:
        reader = gguf.GGUFReader(path)
        said = {key: field.contents() for key, field in reader.fields.items()}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path}: is no whole GGUF file ({error})") from error
    kind = said.get("general.architecture")
    if kind != "llama":
        raise UserError(f"{path}: a GGUF of {kind!r} is not read; only llama's architecture is")
    config = _config(path, said)
    heads = config["num_attention_heads"], config["num_key_value_heads"]
    state = {}
    for tensor in reader.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = _name(path, tensor.name)
        for part, count in zip(("q_proj", "k_proj"), heads, strict=True):
            array = _in_halves(array, count) if part in name else array
        state[name] = np.ascontiguousarray(array, np.float32)
    config["tie_word_embeddings"] = "lm_head.weight" not in state
    config["vocab_size"] = len(state["model.embed_tokens.weight"])
    write_json(os.path.join(folder, "config.json"), config)
    write_safetensors(os.path.join(folder, "model.safetensors"), state, {"format": "pt"})
    ggml = {k.removeprefix("tokenizer.ggml."): v for k, v in said.items()}
    if ggml.get("model") == "gpt2" and ggml.get("pre", "default") in _PIECES:
        named = {"tokenizer.json": _tokenizer(ggml), "tokenizer_config.json": _words(ggml)}
        for name, content in named.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False)


def _config(path: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the file's own words."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    for key, theirs in _CONFIG.items():
        found = said.get(f"llama.{key}", _USUAL.get(key, said))
        if found is said and key == "attention.head_count_kv":
            found = said.get("llama.attention.head_count", said)
        if found is said:
            raise UserError(f"{path}: lacks llama.{key}")
        config[theirs] = found
    eps = np.float32(config["rms_norm_eps"])
    config["rms_norm_eps"] = float(str(eps))  # 1e-05 as it was written, not its nearest float32
    for name in ("bos", "eos"):
        config[f"{name}_token_id"] = said.get(f"tokenizer.ggml.{name}_token_id")
    return config


def _name(path: str, name: str) -> str:
    """Theirs of a tensor: blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
    stem, _, end = name.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{end}"
    first, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    if first != "blk" or part not in _NAMES:
        raise UserError(f"{path}: tensor {name!r} is not known")
    return f"model.layers.{number}.{_NAMES[part]}.{end}"


def _in_halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head 0, 2, 4, ... and then 1, 3, 5, ..."""
    rows = array.reshape(heads, -1, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)


def _tokenizer(ggml: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json of a vocabulary of bytes."""
    tokens, kinds = ggml["tokens"], ggml["token_type"]
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    added = [
        {"id": i, "content": token, **flags, "special": kind == _CONTROL}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _OWN)
    ]
    pieces = _PIECES[ggml.get("pre", "default")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    last = {**byte_level, "use_regex": _SPLIT not in pieces}
    model = dict(type="BPE", dropout=None, unk_token=None, fuse_unk=False, byte_fallback=False)
    model |= dict(continuing_subword_prefix=None, end_of_word_suffix=None, ignore_merges=False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*pieces, last]},
        "post_processor": _start(ggml),
        "decoder": {**byte_level, "use_regex": True},
        "model": model
        | {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": list(ggml["merges"])},
    }


def _start(ggml: Mapping[str, Any]) -> dict[str, Any] | None:
    """What puts the start in front of texts, where the file says that one belongs there."""
    if not ggml.get("add_bos_token"):
        return None
    number = ggml["bos_token_id"]
    word = ggml["tokens"][number]
    one = [{"SpecialToken": {"id": word, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {word: {"id": word, "ids": [number], "tokens": [word]}}
    two = [*one, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": special}


def _words(ggml: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json."""
    named = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}
    named |= {"pad_token": "padding_token_id"}
    return {word: ggml["tokens"][ggml[key]] for word, key in named.items() if key in ggml}

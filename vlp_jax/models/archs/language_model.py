"""The sizes of released language models, as their config.json files say them: LLaMA (arXiv:
2302.13971, Table 2), OPT (arXiv:2205.01068, Table 1), MPT, GPT-NeoX and its relatives, GPT-2.

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any


def llama(
    width: int, num_layers: int, num_heads: int, hidden: int, **others: Any
) -> dict[str, Any]:
    """LLaMA; others: further fields of models/decoder_lm.py."""
    sizes = dict(width=width, num_layers=num_layers, num_heads=num_heads, hidden=hidden)
    return _lm(vocab_size=32000, **sizes) | others


def opt(width: int, num_layers: int, num_heads: int, **others: Any) -> dict[str, Any]:
    """OPT."""
    sizes = dict(width=width, num_layers=num_layers, num_heads=num_heads, hidden=4 * width)
    how = dict(positions="learned", position_offset=2, activation="relu")
    return _plain(vocab_size=50272, **sizes, **how) | others


def mpt(width: int, num_layers: int, num_heads: int, vocab_size: int = 50432) -> dict[str, Any]:
    """MPT."""
    sizes = dict(width=width, num_layers=num_layers, num_heads=num_heads, hidden=4 * width)
    how = dict(norm="scale", norm_eps=1e-5, positions="alibi", activation="gelu", gated=False)
    return _lm(vocab_size=vocab_size, tied=True, **sizes, **how)


def neox(width: int, num_layers: int, num_heads: int, **others: Any) -> dict[str, Any]:
    """GPT-NeoX."""
    sizes = dict(width=width, num_layers=num_layers, num_heads=num_heads, hidden=4 * width)
    how = dict(parallel=True, rotary_share=0.25, tied=False)
    return _plain(vocab_size=50432, **sizes) | how | others


def gpt2(width: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    """GPT-2."""
    sizes = dict(width=width, num_layers=num_layers, num_heads=num_heads, hidden=4 * width)
    how = dict(positions="learned", activation="gelu_tanh", context_length=1024)
    return _plain(vocab_size=50257, **sizes, **how)


def _plain(**fields: Any) -> dict[str, Any]:
    """With biases everywhere, LayerNorm, an MLP without a gate and one table of words."""
    biases = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True)
    how = dict(norm="layer", norm_eps=1e-5, gated=False, activation="gelu", tied=True)
    return _lm(**biases | how | fields)


def _lm(**fields: Any) -> dict[str, Any]:
    return {"name": "decoder_lm", "context_length": 2048, **fields}


_LONG = dict(context_length=4096, norm_eps=1e-5)
_LLAMA_3 = dict(vocab_size=128256, kv_heads=8, rope_theta=5e5, norm_eps=1e-5, context_length=8192)
_SMOL = dict(vocab_size=49152, tied=True, norm_eps=1e-5, rope_theta=1e5, context_length=8192)
_SERIAL = dict(parallel=False, rotary_share=1.0)

_NETS = {  # parameters
    "llama-7b": llama(4096, 32, 32, 11008),  # 6,738,415,616
    "llama-13b": llama(5120, 40, 40, 13824),  # 13,015,864,320
    "vicuna-7b-v1.5": llama(4096, 32, 32, 11008, **_LONG),
    "vicuna-13b-v1.5": llama(5120, 40, 40, 13824, **_LONG),
    "llama-3-8b": llama(4096, 32, 32, 14336, **_LLAMA_3),  # 8,030,261,248
    "mistral-7b": llama(  # 7,241,732,096
        4096, 32, 32, 14336, kv_heads=8, window=4096, norm_eps=1e-5, context_length=32768
    ),
    "smollm2-135m": llama(576, 30, 9, 1536, kv_heads=3, **_SMOL),  # 134,515,008
    "smollm2-360m": llama(960, 32, 15, 2560, kv_heads=5, **_SMOL),  # 361,821,120
    "smollm2-1.7b": llama(2048, 24, 32, 8192, **_SMOL | {"rope_theta": 130000.0}),  # 1,711,376,384
    "opt-125m": opt(768, 12, 12),  # 125,239,296
    "opt-350m": opt(1024, 24, 16, word_width=512, post_norm=True, final_norm=False),  # 331,196,416
    "opt-1.3b": opt(2048, 24, 32),  # 1,315,758,080
    "opt-2.7b": opt(2560, 32, 32),  # 2,651,596,800
    "opt-6.7b": opt(4096, 32, 32),  # 6,658,473,984
    "opt-13b": opt(5120, 40, 40),  # 12,853,473,280
    "mpt-1b": mpt(2048, 24, 16, 50368),  # 1,311,213,568 without norms of queries and keys
    "mpt-7b": mpt(4096, 32, 32),  # 6,649,286,656
    "pythia-160m": neox(768, 12, 12, vocab_size=50304),  # 162,322,944
    "redpajama-incite-3b": neox(2560, 32, 32, **_SERIAL),  # 2,775,864,320
    "gpt-neox-20b": neox(6144, 44, 64, activation="gelu_tanh"),  # 20,554,567,680
    "gpt2": gpt2(768, 12, 12),  # 124,439,808
    "gpt2-medium": gpt2(1024, 24, 16),  # 354,823,168
    "gpt2-large": gpt2(1280, 36, 20),  # 774,030,080
    "gpt2-xl": gpt2(1600, 48, 25),  # 1,557,611,200
}
ARCHS: dict[str, dict[str, Any]] = {name: {"lm": net} for name, net in _NETS.items()}

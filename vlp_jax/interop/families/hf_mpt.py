"""Hugging Face MptForCausalLM (modeling_mpt.py), which has neither biases nor, whatever its config
says, learned positions or norms of queries and keys.

The file exists to hold what is this family's alone.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf_lm import LanguageModel, maps, norms, out_of_heads, words
from vlp_jax.interop.rules import Rule

_LAYER = "transformer.blocks.{i}"
_ATTENTION = dict(  # of MptAttentionConfig, transformers 5.24
    attn_type="multihead_attention", clip_qkv=None, softmax_scale=None, alibi_bias_max=8,
    prefix_lm=False, qk_ln=False,
)  # fmt: skip


class HfMpt(LanguageModel):
    """MPT."""

    has = ("transformer.wte.weight", "transformer.blocks.0.attn.Wqkv.weight")
    kinds = ("mpt",)
    title = "MptForCausalLM"
    defaults = dict(  # of MptConfig
        vocab_size=50368, d_model=2048, n_layers=24, n_heads=16, max_seq_len=2048,
        layer_norm_epsilon=1e-5, tie_word_embeddings=True, logit_scale=None,
    )  # fmt: skip
    rules = (
        *words("transformer.wte.weight"),
        *norms("lm/norm_post", "transformer.norm_f"),
        *norms("lm/blocks/norm1", f"{_LAYER}.norm_1"),
        *norms("lm/blocks/norm2", f"{_LAYER}.norm_2"),
        Rule(
            "lm/blocks/attn/qkv/kernel",
            f"{_LAYER}.attn.Wqkv.weight",
            "l (three h k) i -> l i h three k",
        ),
        *out_of_heads(f"{_LAYER}.attn.out_proj"),
        *maps("lm/blocks/mlp/fc1", f"{_LAYER}.ffn.up_proj"),
        *maps("lm/blocks/mlp/fc2", f"{_LAYER}.ffn.down_proj"),
    )

    def sizes(self, c: Config, where: str) -> dict[str, Any]:
        """See LanguageModel."""
        given = c.get("attn_config") or {}
        if not isinstance(given, Mapping):
            raise UserError(f"{where}: attn_config is {given!r}, it must be a mapping")
        said = {**_ATTENTION, **given}
        numbers = {key: float(said[key] or 0) for key in ("clip_qkv", "softmax_scale")}
        filled({"alibi_bias_max": 8}, said, f"{where}: attn_config")
        for key in ("qk_ln", "prefix_lm"):
            if said[key]:
                raise UserError(f"{where}: attn_config: only {key}=false is read")
        if said["attn_type"] != "multihead_attention" or c["logit_scale"] is not None:
            what = "attn_type='multihead_attention' without a logit_scale"
            raise UserError(f"{where}: only {what} is read")
        return {
            "context_length": c["max_seq_len"],
            "width": c["d_model"],
            "hidden": 4 * c["d_model"],
            "num_layers": c["n_layers"],
            "num_heads": c["n_heads"],
            "activation": "gelu",
            "norm": "scale",
            "norm_eps": c["layer_norm_epsilon"],
            "positions": "alibi",
            "alibi_max": float(said["alibi_bias_max"]),
            "gated": False,
            "qkv_clip": numbers["clip_qkv"],
            "attention_scale": numbers["softmax_scale"],
        }

    def told(self, net: Config) -> dict[str, Any]:
        """See LanguageModel."""
        attention = {
            "alibi_bias_max": int(net["alibi_max"]),
            "clip_qkv": net["qkv_clip"] or None,
            "softmax_scale": net["attention_scale"] or None,
        }
        return {
            "max_seq_len": net["context_length"],
            "d_model": net["width"],
            "n_layers": net["num_layers"],
            "n_heads": net["num_heads"],
            "layer_norm_epsilon": net["norm_eps"],
            "attn_config": attention,
        }


FAMILY = HfMpt()

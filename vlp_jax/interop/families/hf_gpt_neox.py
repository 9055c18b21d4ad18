"""Hugging Face GPTNeoXForCausalLM (modeling_gpt_neox.py): GPT-NeoX, Pythia, RedPajama-INCITE.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.interop.family import Config
from vlp_jax.interop.hf_lm import (
    LanguageModel,
    activation,
    activation_name,
    maps,
    norms,
    out_of_heads,
    read_rope,
    words,
    write_rope,
)
from vlp_jax.interop.rules import Rule

_LAYER = "gpt_neox.layers.{i}"
_HEAD = "embed_out.weight"  # lm_head of transformers 5, but not in its files
_QKV = f"{_LAYER}.attention.query_key_value"


class HfGptNeoX(LanguageModel):
    """GPT-NeoX, its branches one beside or one after the other."""

    has = ("gpt_neox.embed_in.weight", "gpt_neox.layers.0.attention.query_key_value.weight")
    ignored = (r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)
    kinds = ("gpt_neox",)
    head = _HEAD
    title = "GPTNeoXForCausalLM"
    defaults = dict(  # of GPTNeoXConfig, transformers 5.24
        vocab_size=50432, hidden_size=6144, num_hidden_layers=44, num_attention_heads=64,
        intermediate_size=24576, hidden_act="gelu", max_position_embeddings=2048,
        layer_norm_eps=1e-5, bos_token_id=0, eos_token_id=2, tie_word_embeddings=False,
        use_parallel_residual=True, attention_bias=True, rotary_pct=0.25,
        rotary_emb_base=10_000.0,
    )  # fmt: skip
    rules = (
        *words("gpt_neox.embed_in.weight", _HEAD),
        *norms("lm/norm_post", "gpt_neox.final_layer_norm"),
        *norms("lm/blocks/norm1", f"{_LAYER}.input_layernorm"),
        *norms("lm/blocks/norm2", f"{_LAYER}.post_attention_layernorm"),
        Rule("lm/blocks/attn/qkv/kernel", f"{_QKV}.weight", "l (h three k) i -> l i h three k"),
        Rule("lm/blocks/attn/qkv/bias", f"{_QKV}.bias", "l (h three k) -> l h three k"),
        *out_of_heads(f"{_LAYER}.attention.dense"),
        *maps("lm/blocks/mlp/fc1", f"{_LAYER}.mlp.dense_h_to_4h"),
        *maps("lm/blocks/mlp/fc2", f"{_LAYER}.mlp.dense_4h_to_h"),
    )

    def sizes(self, c: Config, where: str) -> dict[str, Any]:
        """See LanguageModel."""
        return {
            "context_length": c["max_position_embeddings"],
            "width": c["hidden_size"],
            "hidden": c["intermediate_size"],
            "num_layers": c["num_hidden_layers"],
            "num_heads": c["num_attention_heads"],
            "activation": activation(c["hidden_act"], where),
            "norm": "layer",
            "norm_eps": c["layer_norm_eps"],
            "parallel": c["use_parallel_residual"],
            "gated": False,
            "qkv_bias": c["attention_bias"],
            "out_bias": c["attention_bias"],
            "mlp_bias": True,
            **read_rope({**c, "rope_theta": c["rotary_emb_base"]}, where, "rotary_pct"),
        }

    def told(self, net: Config) -> dict[str, Any]:
        """See LanguageModel."""
        rope = write_rope(net)["rope_parameters"]
        return {
            "max_position_embeddings": net["context_length"],
            "hidden_size": net["width"],
            "intermediate_size": net["hidden"],
            "num_hidden_layers": net["num_layers"],
            "num_attention_heads": net["num_heads"],
            "hidden_act": activation_name(net["activation"]),
            "layer_norm_eps": net["norm_eps"],
            "use_parallel_residual": net["parallel"],
            "attention_bias": net["qkv_bias"],
            "rope_parameters": rope | {"partial_rotary_factor": net["rotary_share"]},
        }


FAMILY = HfGptNeoX()

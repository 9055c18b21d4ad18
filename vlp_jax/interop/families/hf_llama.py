"""Hugging Face LlamaForCausalLM and MistralForCausalLM (modeling_llama.py): LLaMA, Vicuna, SmolLM,
Mistral.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf_lm import (
    LanguageModel,
    activation,
    activation_name,
    into_heads,
    maps,
    norms,
    out_of_heads,
    read_rope,
    words,
    write_rope,
)
from vlp_jax.interop.rules import Rule

_LAYER = "model.layers.{i}"
_MISTRAL = {"num_key_value_heads": 8, "intermediate_size": 14336}
_MISTRAL |= {"max_position_embeddings": 131072, "sliding_window": 4096}


class HfLlama(LanguageModel):
    """Both."""

    has = (
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
    )
    lacks = ("model.layers.0.self_attn.q_norm.weight",)  # Qwen 3
    ignored = (r".*\.rotary_emb\.inv_freq",)
    kinds = ("llama", "mistral")
    title = "LlamaForCausalLM"
    defaults = dict(  # of LlamaConfig, transformers 5.24
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=None, hidden_act="silu",
        max_position_embeddings=2048, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False, rope_theta=10_000.0, attention_bias=False, mlp_bias=False,
        head_dim=None, sliding_window=None,
    )  # fmt: skip
    rules = (
        *words("model.embed_tokens.weight"),
        *norms("lm/norm_post", "model.norm"),
        *norms("lm/blocks/norm1", f"{_LAYER}.input_layernorm"),
        *norms("lm/blocks/norm2", f"{_LAYER}.post_attention_layernorm"),
        *into_heads(f"{_LAYER}.self_attn.{{}}_proj", ("q", "k", "v")),
        *out_of_heads(f"{_LAYER}.self_attn.o_proj"),
        Rule(
            "lm/blocks/mlp/fc1/kernel",
            (f"{_LAYER}.mlp.up_proj.weight", f"{_LAYER}.mlp.gate_proj.weight"),
            "l two f i -> l i two f",
        ),
        Rule(
            "lm/blocks/mlp/fc1/bias",
            (f"{_LAYER}.mlp.up_proj.bias", f"{_LAYER}.mlp.gate_proj.bias"),
        ),
        *maps("lm/blocks/mlp/fc2", f"{_LAYER}.mlp.down_proj"),
    )

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """See LanguageModel; Mistral fills up otherwise."""
        usual = _MISTRAL if config.get("model_type") == "mistral" else {}
        return super().method({**usual, **config} if config else {}, where)

    def sizes(self, c: Config, where: str) -> dict[str, Any]:
        """See LanguageModel."""
        heads = c["num_attention_heads"]
        if c["hidden_size"] % heads and c["head_dim"] is None:
            raise UserError(f"{where}: num_attention_heads={heads} does not divide hidden_size")
        own, kv = c["hidden_size"] // heads, c["num_key_value_heads"]
        return {
            "context_length": c["max_position_embeddings"],
            "width": c["hidden_size"],
            "hidden": c["intermediate_size"],
            "num_layers": c["num_hidden_layers"],
            "num_heads": heads,
            "kv_heads": 0 if kv in (None, heads) else kv,
            "head_dim": 0 if c["head_dim"] in (None, own) else c["head_dim"],
            "activation": activation(c["hidden_act"], where),
            "norm_eps": c["rms_norm_eps"],
            "qkv_bias": c["attention_bias"],
            "out_bias": c["attention_bias"],
            "mlp_bias": c["mlp_bias"],
            "window": c["sliding_window"] or 0,
            **read_rope(c, where),
        }

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """Of Mistral where there is a window."""
        found = super().configs(method, pictures, tokenizer)
        if method["lm"]["window"]:
            kind = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
            found[self.config_name] |= kind
        return found

    def told(self, net: Config) -> dict[str, Any]:
        """See LanguageModel."""
        heads = net["num_heads"]
        return {
            "max_position_embeddings": net["context_length"],
            "hidden_size": net["width"],
            "intermediate_size": net["hidden"],
            "num_hidden_layers": net["num_layers"],
            "num_attention_heads": heads,
            "num_key_value_heads": net["kv_heads"] or heads,
            "head_dim": net["head_dim"] or net["width"] // heads,
            "hidden_act": activation_name(net["activation"]),
            "rms_norm_eps": net["norm_eps"],
            "attention_bias": net["qkv_bias"],
            "mlp_bias": net["mlp_bias"],
            "sliding_window": net["window"] or None,
            **write_rope(net),
        }


FAMILY = HfLlama()

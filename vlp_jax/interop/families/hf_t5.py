"""Hugging Face T5ForConditionalGeneration (modeling_t5.py): T5, its version 1.1, Flan-T5.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import HuggingFace
from vlp_jax.interop.hf_lm import HEAD, activation, activation_name, ids_of, in_order
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

_DEFAULTS = dict(  # of T5Config, transformers 5.24
    vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_decoder_layers=None,
    num_heads=8, relative_attention_num_buckets=32, relative_attention_max_distance=128,
    layer_norm_epsilon=1e-6, feed_forward_proj="relu", tie_word_embeddings=True,
)  # fmt: skip
_PLACES = 512  # as trained; nothing in a file says more
_FIRST = ("encoder", "SelfAttention.q"), ("decoder", "EncDecAttention.q")


def _side(side: str, mlp: int) -> tuple[Rule, ...]:
    """Rules of the encoder or the decoder; mlp: the number of its last branch."""
    ours, theirs = f"lm/{side}", f"{side}.block.{{i}}.layer"
    own, ff = f"{theirs}.0.SelfAttention", f"{theirs}.{mlp}.DenseReluDense"
    blocks = f"{ours}/blocks"
    return (
        Rule(
            f"{ours}/bias", f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ),
        Rule(f"{ours}/norm_post/scale", f"{side}.final_layer_norm.weight"),
        Rule(f"{blocks}/norm1/scale", f"{theirs}.0.layer_norm.weight"),
        Rule(f"{blocks}/norm2/scale", f"{theirs}.{mlp}.layer_norm.weight"),
        Rule(
            f"{blocks}/attn/qkv/kernel",
            tuple(f"{own}.{name}.weight" for name in "qkv"),
            "l three (h k) i -> l i h three k",
        ),
        Rule(f"{blocks}/attn/out/kernel", f"{own}.o.weight", "l o (h k) -> l h k o"),
        Rule(
            f"{blocks}/mlp/fc1/kernel",
            (f"{ff}.wi_1.weight", f"{ff}.wi_0.weight"),
            "l two f i -> l i two f",
        ),
        Rule(f"{blocks}/mlp/fc2/kernel", f"{ff}.wo.weight", "l o i -> l i o"),
    )


_CROSS = "decoder.block.{i}.layer.1"


class HfT5(HuggingFace):
    """T5 with a gate in its MLP."""

    has = ("shared.weight", *(f"{side}.block.0.layer.{i}.{name}.weight"
                              for i, (side, name) in enumerate(_FIRST)))  # fmt: skip
    ignored = (r"(encoder|decoder)\.embed_tokens\.weight",)  # shared.weight once more
    archs = "t5"
    methods = ("text_to_text",)
    untold = ("lm.context_length",)
    title, model_type = "T5ForConditionalGeneration", "t5"
    rules = (
        Rule("lm/token_embed/embedding", "shared.weight"),
        Rule("lm/head/embedding", HEAD),
        *_side("encoder", 1),
        *_side("decoder", 2),
        Rule("lm/decoder/blocks/norm_cross/scale", f"{_CROSS}.layer_norm.weight"),
        Rule(
            "lm/decoder/blocks/cross_attn/query/kernel",
            f"{_CROSS}.EncDecAttention.q.weight",
            "l (h k) i -> l i h k",
        ),
        Rule(
            "lm/decoder/blocks/cross_attn/key_value/kernel",
            tuple(f"{_CROSS}.EncDecAttention.{name}.weight" for name in "kv"),
            "l two (h k) i -> l i h two k",
        ),
        Rule(
            "lm/decoder/blocks/cross_attn/out/kernel",
            f"{_CROSS}.EncDecAttention.o.weight",
            "l o (h k) -> l h k o",
        ),
    )  # fmt: skip

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: an unknown activation, an MLP without a gate.
        """
        if not config:
            return {}
        c = filled(_DEFAULTS, config, where)
        kind, _, name = c["feed_forward_proj"].partition("-")
        if kind != "gated" or not name:
            said = f"feed_forward_proj={c['feed_forward_proj']!r}"
            raise UserError(f"{where}: {said}: only T5 1.1's and Flan-T5's 'gated-gelu' is read")
        layers = c["num_decoder_layers"]
        net = {
            "name": "t5",
            "vocab_size": c["vocab_size"],
            "context_length": _PLACES,
            "width": c["d_model"],
            "num_layers": c["num_layers"],
            "decoder_layers": 0 if layers in (None, c["num_layers"]) else layers,
            "num_heads": c["num_heads"],
            "head_dim": c["d_kv"],
            "hidden": c["d_ff"],
            "bias_buckets": c["relative_attention_num_buckets"],
            "bias_most": c["relative_attention_max_distance"],
            "norm_eps": c["layer_norm_epsilon"],
            "activation": _activation(config.get("dense_act_fn"), name, where),
            "scaled": bool(config.get("scale_decoder_outputs", c["tie_word_embeddings"])),
            "tied": c["tie_word_embeddings"],
        }
        start = config.get("decoder_start_token_id", config.get("pad_token_id", 0))
        ids = ids_of({"bos_token_id": start, **_end(config)}, net["vocab_size"], where)
        return {"name": "text_to_text", "lm": net, **ids}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """A table for what is written where the file holds one, whatever the config says."""
        method["lm"]["tied"] = HEAD not in state
        return []

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """Texts as they are."""
        del beside, file, vocab_size, method
        return {"clean": "none"}

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """T5Config."""
        net, ends = method["lm"], method["end_ids"]
        name = (
            "gelu_new" if net["activation"] == "gelu_tanh" else activation_name(net["activation"])
        )
        return {
            "vocab_size": net["vocab_size"],
            "d_model": net["width"],
            "d_kv": net["head_dim"],
            "d_ff": net["hidden"],
            "num_layers": net["num_layers"],
            "num_decoder_layers": net["decoder_layers"] or net["num_layers"],
            "num_heads": net["num_heads"],
            "relative_attention_num_buckets": net["bias_buckets"],
            "relative_attention_max_distance": net["bias_most"],
            "layer_norm_epsilon": net["norm_eps"],
            "feed_forward_proj": f"gated-{name.removesuffix('_new')}",
            "dense_act_fn": name,
            "tie_word_embeddings": net["tied"],
            "scale_decoder_outputs": net["scaled"],
            "decoder_start_token_id": method["start_id"],
            "pad_token_id": method["start_id"],
            "eos_token_id": in_order(ends),
            "is_encoder_decoder": True,
        }


def _activation(said: Any, name: str, where: str) -> str:
    """dense_act_fn where that is said (BLIP-2's T5 has the exact GELU), else what the name of the
    MLP stands for: of gated-gelu the approximation by tanh."""
    if said is not None:
        return activation(said, where, "dense_act_fn")
    return "gelu_tanh" if name == "gelu" else activation(name, where, "feed_forward_proj")


def _end(config: Config) -> dict[str, Any]:
    return {"eos_token_id": config.get("eos_token_id", 1)}


FAMILY = HfT5()

"""Hugging Face GPT2LMHeadModel (modeling_gpt2.py), whose linear maps lie as inputs by outputs.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf_lm import LanguageModel, activation, activation_name, norms, words
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

_LAYER = "transformer.h.{i}"


def _maps(ours: str, theirs: str, kernel: str = "", bias: str = "") -> tuple[Rule, ...]:
    return (
        Rule(f"lm/blocks/{ours}/kernel", f"{_LAYER}.{theirs}.weight", kernel),
        Rule(f"lm/blocks/{ours}/bias", f"{_LAYER}.{theirs}.bias", bias),
    )


class HfGpt2(LanguageModel):
    """GPT-2."""

    has = ("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight")
    lacks = ("transformer.h.0.crossattention.c_attn.weight",)
    ignored = (r".*\.attn\.(bias|masked_bias)",)
    kinds = ("gpt2",)
    title = "GPT2LMHeadModel"
    defaults = dict(  # of GPT2Config, transformers 5.24
        vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, n_inner=None,
        activation_function="gelu_new", layer_norm_epsilon=1e-5, bos_token_id=50256,
        eos_token_id=50256, tie_word_embeddings=True, scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
    )  # fmt: skip
    rules = (
        *words("transformer.wte.weight"),
        Rule("lm/pos_embed", "transformer.wpe.weight"),
        *norms("lm/norm_post", "transformer.ln_f"),
        *norms("lm/blocks/norm1", f"{_LAYER}.ln_1"),
        *norms("lm/blocks/norm2", f"{_LAYER}.ln_2"),
        *_maps(
            "attn/qkv",
            "attn.c_attn",
            "l i (three h k) -> l i h three k",
            "l (three h k) -> l h three k",
        ),
        *_maps("attn/out", "attn.c_proj", "l (h k) o -> l h k o"),
        *_maps("mlp/fc1", "mlp.c_fc"),
        *_maps("mlp/fc2", "mlp.c_proj"),
    )

    def known_names(self, state: State) -> State:
        """GPT2Model's files, as released, lack `transformer.`."""
        own = ("wte.", "wpe.", "h.", "ln_f.")
        return {f"transformer.{n}" if n.startswith(own) else n: t for n, t in state.items()}

    def sizes(self, c: Config, where: str) -> dict[str, Any]:
        """See LanguageModel."""
        if not c["scale_attn_weights"] or c["scale_attn_by_inverse_layer_idx"]:
            what = "scale_attn_weights=true and scale_attn_by_inverse_layer_idx=false"
            raise UserError(f"{where}: only {what} are read")
        return {
            "context_length": c["n_positions"],
            "width": c["n_embd"],
            "hidden": c["n_inner"] or 4 * c["n_embd"],
            "num_layers": c["n_layer"],
            "num_heads": c["n_head"],
            "activation": activation(c["activation_function"], where, "activation_function"),
            "norm": "layer",
            "norm_eps": c["layer_norm_epsilon"],
            "positions": "learned",
            "gated": False,
            "qkv_bias": True,
            "out_bias": True,
            "mlp_bias": True,
        }

    def told(self, net: Config) -> dict[str, Any]:
        """See LanguageModel."""
        return {
            "n_positions": net["context_length"],
            "n_embd": net["width"],
            "n_inner": net["hidden"],
            "n_layer": net["num_layers"],
            "n_head": net["num_heads"],
            "activation_function": activation_name(net["activation"]),
            "layer_norm_epsilon": net["norm_eps"],
        }


FAMILY = HfGpt2()

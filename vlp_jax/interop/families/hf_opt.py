"""Hugging Face OPTForCausalLM (modeling_opt.py).

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
    words,
)
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

_MODEL = "model.decoder"
_LAYER = f"{_MODEL}.layers.{{i}}"
OFFSET = 2  # rows of the table of positions before the first token's, as in fairseq


class HfOpt(LanguageModel):
    """OPT, its 350M form included."""

    has = (f"{_MODEL}.embed_positions.weight", f"{_MODEL}.layers.0.self_attn.q_proj.weight")
    lacks = ("model.encoder.embed_positions.weight",)  # BART
    kinds = ("opt",)
    title = "OPTForCausalLM"
    defaults = dict(  # of OPTConfig, transformers 5.24
        vocab_size=50272, hidden_size=768, num_hidden_layers=12, ffn_dim=3072,
        max_position_embeddings=2048, do_layer_norm_before=True, _remove_final_layer_norm=False,
        word_embed_proj_dim=None, num_attention_heads=12, activation_function="relu",
        bos_token_id=2, eos_token_id=2, enable_bias=True, layer_norm_elementwise_affine=True,
        tie_word_embeddings=True,
    )  # fmt: skip
    rules = (
        *words(f"{_MODEL}.embed_tokens.weight"),
        Rule("lm/pos_embed", f"{_MODEL}.embed_positions.weight"),
        Rule("lm/project_in/kernel", f"{_MODEL}.project_in.weight", "o i -> i o"),
        Rule("lm/project_out/kernel", f"{_MODEL}.project_out.weight", "o i -> i o"),
        *norms("lm/norm_post", f"{_MODEL}.final_layer_norm"),
        *norms("lm/blocks/norm1", f"{_LAYER}.self_attn_layer_norm"),
        *norms("lm/blocks/norm2", f"{_LAYER}.final_layer_norm"),
        *into_heads(f"{_LAYER}.self_attn.{{}}_proj", ("q", "k", "v")),
        *out_of_heads(f"{_LAYER}.self_attn.out_proj"),
        *maps("lm/blocks/mlp/fc1", f"{_LAYER}.fc1"),
        *maps("lm/blocks/mlp/fc2", f"{_LAYER}.fc2"),
    )

    def known_names(self, state: State) -> State:
        """OPTModel's files lack `model.`."""
        return {f"model.{n}" if n.startswith("decoder.") else n: t for n, t in state.items()}

    def sizes(self, c: Config, where: str) -> dict[str, Any]:
        """See LanguageModel."""
        if not c["layer_norm_elementwise_affine"]:
            raise UserError(f"{where}: only layer_norm_elementwise_affine=true is read")
        words, width = c["word_embed_proj_dim"], c["hidden_size"]
        before, bias = c["do_layer_norm_before"], c["enable_bias"]
        return {
            "context_length": c["max_position_embeddings"],
            "width": width,
            "word_width": 0 if words in (None, width) else words,
            "hidden": c["ffn_dim"],
            "num_layers": c["num_hidden_layers"],
            "num_heads": c["num_attention_heads"],
            "activation": activation(c["activation_function"], where, "activation_function"),
            "norm": "layer",
            "norm_eps": 1e-5,
            "post_norm": not before,
            "final_norm": before and not c["_remove_final_layer_norm"],
            "positions": "learned",
            "position_offset": OFFSET,
            "gated": False,
            "qkv_bias": bias,
            "out_bias": bias,
            "mlp_bias": bias,
        }

    def told(self, net: Config) -> dict[str, Any]:
        """See LanguageModel."""
        return {
            "max_position_embeddings": net["context_length"],
            "hidden_size": net["width"],
            "word_embed_proj_dim": net["word_width"] or net["width"],
            "ffn_dim": net["hidden"],
            "num_hidden_layers": net["num_layers"],
            "num_attention_heads": net["num_heads"],
            "activation_function": activation_name(net["activation"]),
            "do_layer_norm_before": not net["post_norm"],
            "_remove_final_layer_norm": not net["post_norm"] and not net["final_norm"],
            "enable_bias": net["qkv_bias"],
        }


FAMILY = HfOpt()

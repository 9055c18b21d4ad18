"""CLIPTextModel and CLIPTextModelWithProjection of Hugging Face transformers (modeling_clip.py):
CLIP's text tower alone, as Stable Diffusion has it.

The file exists because a pipeline holds one or two of them, and one alone is a checkpoint too.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.config_values import class_of, filled
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import clip_text, read_layers, write_layers
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

PLAIN, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"
_DEFAULTS = dict(  # of CLIPTextConfig, transformers 5.24
    hidden_size=512, intermediate_size=2048, projection_dim=512, num_hidden_layers=12,
    num_attention_heads=8, vocab_size=49408, max_position_embeddings=77, eos_token_id=49407,
    hidden_act="quick_gelu", layer_norm_eps=1e-5,
)  # fmt: skip
END = "<|endoftext|>"
_BARE = ("embeddings.", "encoder.", "final_layer_norm.")


def clip_text_rules(part: str, theirs: str = "") -> tuple[Rule, ...]:
    """All of it; part: ours; theirs: what stands before their names."""
    projection = Rule(f"{part}/head/kernel", f"{theirs}text_projection.weight", "o i -> i o")
    return (*clip_text(part, f"{theirs}text_model"), projection)


def whole_names(state: State, theirs: str = "") -> State:
    """The tensors under `text_model.`, which CLIPTextModel of transformers 5 leaves out; of those
    whose names begin with `theirs`."""

    def known(name: str) -> str:
        rest = name.removeprefix(theirs)
        bare = name.startswith(theirs) and rest.startswith(_BARE)
        return f"{theirs}text_model.{rest}" if bare else name

    return {known(name): tensor for name, tensor in state.items()}


def read_clip_text(config: Config, where: str) -> dict[str, Any]:
    """The network that transformers builds of a config.json, as fields with its name.

    Raises:
      UserError: another class, an unknown activation, an end that is not the largest id.
    """
    kind = class_of(config, (PLAIN, PROJECTED), where)
    c = filled(_DEFAULTS, config, where)
    check_end(c, where)
    return {
        "name": "text",
        **read_layers(c, where),
        "num_heads": c["num_attention_heads"],
        "vocab_size": c["vocab_size"],
        "context_length": c["max_position_embeddings"],
        "embed_dim": c["projection_dim"] if kind == PROJECTED else 0,
        "pool": "argmax",
        "causal": True,
        "head_bias": False,
    }


def check_end(config: Config, where: str) -> None:
    """Raises UserError for an end of texts that is not the largest id, where we pool; 2 stands for
    the largest id in old files (modeling_clip.py)."""
    last, end = int(config["vocab_size"]) - 1, config.get("eos_token_id")
    if end not in (2, last):
        what = f"eos_token_id {end} is not the largest id ({last}), where we pool"
        raise UserError(f"{where}: {what}")


def write_clip_text(net: Config) -> dict[str, Any]:
    """The inverse of `read_clip_text`.

    Raises:
      UserError: a network that pools or looks otherwise.
    """
    for key, value in (("pool", "argmax"), ("causal", True), ("head_bias", False)):
        if net[key] != value:
            raise UserError(f"CLIPTextModel has text.{key}={value!r} alone, not {net[key]!r}")
    return {
        "architectures": [PROJECTED if net["embed_dim"] else PLAIN],
        "model_type": "clip_text_model",
        **write_layers(net, net["num_heads"]),
        "projection_dim": net["embed_dim"] or net["width"],
        "vocab_size": net["vocab_size"],
        "max_position_embeddings": net["context_length"],
        "bos_token_id": net["vocab_size"] - 2,
        "eos_token_id": 2,  # the largest id
        "pad_token_id": 1,
    }


def padding(beside: Beside, file: str, vocab_size: int) -> dict[str, int]:
    """Options of a tokenizer by the `pad_token` of its tokenizer_config.json, `beside.config`: the
    end (Stable Diffusion 1), or id 0. {} of a file, beside which its padding is named."""
    said = beside.config.get("pad_token")
    said = said.get("content") if isinstance(said, dict) else said
    return {"pad_id": vocab_size - 1} if said == END and not file else {}

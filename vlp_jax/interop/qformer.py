"""A Q-Former's names, which follow BERT's, in transformers and in salesforce/LAVIS; its config and
that of the eye before it in transformers (Blip2QFormerConfig, Blip2VisionConfig).

The file exists because several families hold them under different prefixes.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.blip import looks, vision_rules
from vlp_jax.interop.blocks import blocks, linear, norm, split
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf import read_layers, read_vit, write_layers
from vlp_jax.interop.rules import Rule

_DEFAULTS: Mapping[str, Any] = dict(  # of Blip2QFormerConfig, transformers 5.24
    vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
    intermediate_size=3072, hidden_act="gelu", layer_norm_eps=1e-12, max_position_embeddings=512,
    cross_attention_frequency=2, encoder_hidden_size=1408, use_qformer_text_input=False,
)  # fmt: skip
_VISION = dict(  # of Blip2VisionConfig, transformers 5.24
    hidden_size=1408, intermediate_size=6144, num_hidden_layers=39, num_attention_heads=16,
    image_size=224, patch_size=14, hidden_act="gelu", layer_norm_eps=1e-6,
)  # fmt: skip
IMAGE = dict(  # what Blip2VisionModel is, whatever its config says
    pool="tokens", cls_token=True, pos_embed="learned", pre_norm=False, conv_bias=True,
    weight_init="mae",
)  # fmt: skip
EYE_RULES = (  # of the classes of transformers with an eye
    *vision_rules(),
    *norm("image_norm", "vision_model.post_layernorm"),
    Rule("queries", "query_tokens", "1 q d -> q d"),
)
EMBED_RULES = norm("qformer/norm_embed", "qformer.layernorm")  # of BLIP-2's
_LOOKS = re.compile(r"encoder\.layer\.(\d+)\.crossattention\.")
_OURS = re.compile(r"qformer/layers/at(\d+)/")


def cross_every(names: Iterable[str]) -> int:
    """Every which layer looks at the picture, by the names of theirs or of ours."""
    names = list(names)
    ours = {int(found[1]) for name in names if (found := _OURS.match(name))}
    if ours:
        return len(ours)
    theirs = sorted({int(found[1]) for name in names if (found := _LOOKS.search(name))})
    layers = [int(n) for name in names for n in re.findall(r"encoder\.layer\.(\d+)\.", name)]
    return theirs[1] - theirs[0] if len(theirs) > 1 else max(layers, default=0) + 1


def layer_rules(theirs: str, inner: str, every: int) -> tuple[Rule, ...]:
    """All layers.

    Args:
      theirs: what stands before their names, with `{i}` for the layer.
      inner: the name of an attention's own module, `attention` or `self`.
      every: see `cross_every`.
    """
    norms = ("attention.output.LayerNorm", "output.LayerNorm")
    qkv = split(f"attention.{inner}.{{}}", ("query", "key", "value"))
    mlp = ("intermediate.dense", "output.dense")
    query_mlp = ("intermediate_query.dense", "output_query.dense")
    ours, cross = "qformer/blocks", f"{theirs}.crossattention"
    rules = (
        *blocks("qformer", theirs, qkv, "attention.output.dense", norms, mlp),
        *looks(f"{ours}/cross_attn", f"{cross}.{inner}", f"{cross}.output.dense"),
        *norm(f"{ours}/norm_cross", f"{cross}.output.LayerNorm"),
        *linear(f"{ours}/query_mlp/fc1", f"{theirs}.{query_mlp[0]}", stacked=True),
        *linear(f"{ours}/query_mlp/fc2", f"{theirs}.{query_mlp[1]}", stacked=True),
        *norm(f"{ours}/norm_query", f"{theirs}.output_query.LayerNorm"),
    )
    at = lambda path, i: path.replace("/blocks/", f"/layers/at{i}/")  # noqa: E731
    return tuple(
        dataclasses.replace(rule, ours=at(rule.ours, i), first=i, step=every)
        for i in range(every)
        for rule in rules
    )


def word_rules(theirs: str) -> tuple[Rule, ...]:
    """Embeddings of words and of their places."""
    return (
        Rule("qformer/token_embed/embedding", f"{theirs}.word_embeddings.weight"),
        Rule("qformer/pos_embed", f"{theirs}.position_embeddings.weight"),
    )


def read_eye(config: Config, where: str) -> dict[str, Any]:
    """The sizes of Blip2VisionModel. Raises UserError for one without biases of its attention."""
    said = config.get("vision_config") or {}
    said = filled({**_VISION, "qkv_bias": True}, said, f"{where}: vision_config")
    if not said["qkv_bias"]:
        raise UserError(f"{where}: only qkv_bias=true is read")
    return read_vit(said, where)


def read_qformer(said: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the network of a config without its texts, the config filled up).

    Raises:
      UserError: an unknown activation; layers that are no multiple of the frequency.
    """
    c = filled(_DEFAULTS, said or {}, where)
    every, layers = c["cross_attention_frequency"], c["num_hidden_layers"]
    if layers % every:
        what = f"cross_attention_frequency={every} does not divide num_hidden_layers={layers}"
        raise UserError(f"{where}: {what}, which is not read")
    net = {"name": "qformer", **read_layers(c, where), "num_heads": c["num_attention_heads"]}
    words = {"vocab_size": c["vocab_size"], "context_length": c["max_position_embeddings"]}
    return net | words | {"cross_every": every}, c


def unread_width(config: Config) -> list[str]:
    """A note where a Q-Former's config says another width of the eye than the eye's, which stands
    in its place (Blip2Config.__post_init__)."""
    said = (config.get("qformer_config") or {}).get("encoder_hidden_size")
    width = (config.get("vision_config") or {}).get("hidden_size", _VISION["hidden_size"])
    what = f"qformer_config.encoder_hidden_size={said} is not read"
    note = f"{what}: vision_config.hidden_size={width} stands in its place, as in transformers"
    return [] if said in (None, width) else [note]


def write_qformer(net: Config, context_width: int) -> dict[str, Any]:
    """The inverse of `read_qformer`, with its texts."""
    return write_layers(net, net["num_heads"]) | {
        "model_type": "blip_2_qformer",
        "vocab_size": net["vocab_size"],
        "max_position_embeddings": net["context_length"],
        "cross_attention_frequency": net["cross_every"],
        "encoder_hidden_size": context_width,
        "use_qformer_text_input": net["texts"] != "none",
        "pad_token_id": 0,
    }

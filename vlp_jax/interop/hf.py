"""Name tables of Hugging Face `CLIPModel` and `SiglipModel`, and their config.json both ways.

Names as in transformers 5 (modeling_clip.py, modeling_siglip.py); `pre_layrnorm` is spelled so
there. There is no ResNet CLIP in transformers. The file exists to hold these tables and the
switches that only config.json carries.
"""

import math
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.rules import Family, Rule

ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}  # theirs -> ours

_SPLIT_KERNEL = "l three (h k) i -> l i h three k"
_SPLIT_BIAS = "l three (h k) -> l h three k"


def _layers(ours: str, theirs: str) -> tuple[Rule, ...]:
    ours, theirs = f"{ours}/blocks", f"{theirs}.encoder.layers.{{i}}"
    heads = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
    return (
        Rule(f"{ours}/norm{{n}}/scale", f"{theirs}.layer_norm{{n}}.weight"),
        Rule(f"{ours}/norm{{n}}/bias", f"{theirs}.layer_norm{{n}}.bias"),
        Rule(f"{ours}/attn/qkv/kernel", tuple(f"{name}.weight" for name in heads), _SPLIT_KERNEL),
        Rule(f"{ours}/attn/qkv/bias", tuple(f"{name}.bias" for name in heads), _SPLIT_BIAS),
        Rule(
            f"{ours}/attn/out/kernel", f"{theirs}.self_attn.out_proj.weight", "l o (h k) -> l h k o"
        ),
        Rule(f"{ours}/attn/out/bias", f"{theirs}.self_attn.out_proj.bias"),
        Rule(f"{ours}/mlp/fc{{n}}/kernel", f"{theirs}.mlp.fc{{n}}.weight", "l o i -> l i o"),
        Rule(f"{ours}/mlp/fc{{n}}/bias", f"{theirs}.mlp.fc{{n}}.bias"),
    )


_PATCHES = (
    Rule(
        "image/patch_embed/kernel",
        "vision_model.embeddings.patch_embedding.weight",
        "d c p q -> p q c d",
    ),
    Rule("image/patch_embed/bias", "vision_model.embeddings.patch_embedding.bias"),
    Rule("image/cls_token", "vision_model.embeddings.class_embedding"),
    Rule("image/pos_embed", "vision_model.embeddings.position_embedding.weight"),
    Rule("image/norm_pre/scale", "vision_model.pre_layrnorm.weight"),
    Rule("image/norm_pre/bias", "vision_model.pre_layrnorm.bias"),
    *_layers("image", "vision_model"),
    Rule("image/norm_post/scale", "vision_model.post_layernorm.weight"),
    Rule("image/norm_post/bias", "vision_model.post_layernorm.bias"),
)
_TEXT = (
    Rule("text/token_embed/embedding", "text_model.embeddings.token_embedding.weight"),
    Rule("text/pos_embed", "text_model.embeddings.position_embedding.weight"),
    *_layers("text", "text_model"),
    Rule("text/norm_post/scale", "text_model.final_layer_norm.weight"),
    Rule("text/norm_post/bias", "text_model.final_layer_norm.bias"),
)
_IGNORED = (r".*\.position_ids",)  # buffers that older versions stored

HF_CLIP = Family(
    "Hugging Face CLIPModel",
    (
        *_PATCHES,
        *_TEXT,
        Rule("image/head/kernel", "visual_projection.weight", "o i -> i o"),
        Rule("text/head/kernel", "text_projection.weight", "o i -> i o"),
        Rule("logit_scale", "logit_scale"),
    ),
    _IGNORED,
)

_HEAD = "vision_model.head"
_FUSED = f"{_HEAD}.attention.in_proj"
HF_SIGLIP = Family(
    "Hugging Face SiglipModel",
    (
        *_PATCHES,
        *_TEXT,
        Rule("image/pool/probe", f"{_HEAD}.probe", "1 1 d -> d"),
        Rule(
            "image/pool/attn/query/kernel", f"{_FUSED}_weight", "(h k) i -> i h k", part=(0, 1, 3)
        ),
        Rule(
            "image/pool/attn/key_value/kernel",
            f"{_FUSED}_weight",
            "(two h k) i -> i h two k",
            part=(1, 3, 3),
        ),
        Rule("image/pool/attn/query/bias", f"{_FUSED}_bias", "(h k) -> h k", part=(0, 1, 3)),
        Rule(
            "image/pool/attn/key_value/bias",
            f"{_FUSED}_bias",
            "(two h k) -> h two k",
            part=(1, 3, 3),
        ),
        Rule(
            "image/pool/attn/out/kernel", f"{_HEAD}.attention.out_proj.weight", "o (h k) -> h k o"
        ),
        Rule("image/pool/attn/out/bias", f"{_HEAD}.attention.out_proj.bias"),
        Rule("image/pool/norm/scale", f"{_HEAD}.layernorm.weight"),
        Rule("image/pool/norm/bias", f"{_HEAD}.layernorm.bias"),
        Rule("image/pool/mlp/fc{n}/kernel", f"{_HEAD}.mlp.fc{{n}}.weight", "o i -> i o"),
        Rule("image/pool/mlp/fc{n}/bias", f"{_HEAD}.mlp.fc{{n}}.bias"),
        Rule("text/head/kernel", "text_model.head.weight", "o i -> i o"),
        Rule("text/head/bias", "text_model.head.bias"),
        Rule("logit_scale", "logit_scale", "1 ->"),
        Rule("logit_bias", "logit_bias", "1 ->"),
    ),
    _IGNORED,
)


_CLIP_DEFAULTS = {  # of CLIPVisionConfig and CLIPTextConfig, transformers 5.24
    "vision": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                   num_attention_heads=12, image_size=224, patch_size=32, num_channels=3,
                   hidden_act="quick_gelu", layer_norm_eps=1e-5),
    "text": dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12,
                 num_attention_heads=8, vocab_size=49408, max_position_embeddings=77,
                 eos_token_id=49407, hidden_act="quick_gelu", layer_norm_eps=1e-5),
}  # fmt: skip
_SIGLIP_LAYERS = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                      num_attention_heads=12, hidden_act="gelu_pytorch_tanh",
                      layer_norm_eps=1e-6)  # fmt: skip
_SIGLIP_DEFAULTS = {  # of SiglipVisionConfig and SiglipTextConfig
    "vision": dict(_SIGLIP_LAYERS, image_size=224, patch_size=16, num_channels=3,
                   vision_use_head=True),
    "text": dict(_SIGLIP_LAYERS, vocab_size=32000, max_position_embeddings=64,
                 projection_size=None),
}  # fmt: skip
_CLIP_TOWERS = {  # what CLIPModel is, whatever its config says
    "image": dict(pool="cls", pos_embed="learned", pre_norm=True, conv_bias=False, head_bias=False),
    "text": dict(pool="argmax", causal=True, head_bias=False),
}
_SIGLIP_TOWERS = {
    "image": dict(pool="map", pos_embed="learned", pre_norm=False, conv_bias=True, project=False),
    "text": dict(pool="last", causal=False, head_bias=True),
}


def method_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What transformers builds from a config.json: {name, embed_dim, image, text} for make_method.

    Raises:
      UserError: an unknown activation, a SigLIP without its head or, for CLIP, an end token that is
        not the largest id (we pool there).
    """
    siglip = config.get("model_type") == "siglip"
    defaults, fixed = (
        (_SIGLIP_DEFAULTS, _SIGLIP_TOWERS) if siglip else (_CLIP_DEFAULTS, _CLIP_TOWERS)
    )
    vision, text = (_part(config, side, defaults[side]) for side in ("vision", "text"))
    if vision["num_channels"] != 3 or not vision.get("vision_use_head", True):
        raise UserError(f"{where}: only num_channels=3 and vision_use_head=true are read")
    last, end = int(text["vocab_size"]) - 1, text.get("eos_token_id")
    if not siglip and end not in (2, last):  # 2 stands for "the largest id", see modeling_clip.py
        raise UserError(
            f"{where}: eos_token_id {end} is not the largest id ({last}), where we pool"
        )
    embed_dim = config.get("projection_dim", 512)
    if siglip:
        embed_dim = text["projection_size"] or text["hidden_size"]
    image = _tower(vision, where) | {
        "name": "vit",
        "image_size": image_side(vision["image_size"], where),
        "patch_size": image_side(vision["patch_size"], where),
        "head_width": vision["hidden_size"] // vision["num_attention_heads"],
    }
    words = _tower(text, where) | {
        "name": "text",
        "num_heads": text["num_attention_heads"],
        "vocab_size": text["vocab_size"],
        "context_length": text["max_position_embeddings"],
    }
    return {
        "name": "siglip" if siglip else "clip",
        "embed_dim": int(embed_dim),
        "image": image | fixed["image"],
        "text": words | fixed["text"],
    }


def _part(config: Mapping[str, Any], side: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """One tower's keys; `text_config_dict` of old files takes the place of `text_config`."""
    said = config.get(f"{side}_config_dict")
    said = (config.get(f"{side}_config") or {}) if said is None else said
    return {**defaults, **said}


def _tower(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    if part["hidden_act"] not in ACTIVATIONS:
        hint = nearest(str(part["hidden_act"]), ACTIVATIONS)
        raise UserError(f"{where}: hidden_act {part['hidden_act']!r} is not known{hint}")
    return {
        "width": part["hidden_size"],
        "num_layers": part["num_hidden_layers"],
        "mlp_ratio": mlp_ratio(part["hidden_size"], part["intermediate_size"]),
        "activation": ACTIVATIONS[part["hidden_act"]],
        "norm_eps": float(part["layer_norm_eps"]),
    }


def mlp_ratio(width: int, hidden: int) -> float:
    """The ratio that gives this MLP width back: int(width * ratio) == hidden."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def image_side(size: Any, where: str) -> int:
    """A side that may be written as a pair. Raises UserError for a rectangle."""
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise UserError(f"{where}: {size} is not square")
    return int(sides.pop())


def model_config(
    arch: Mapping[str, Any], siglip: bool, end_id: int | None = None
) -> dict[str, Any]:
    """Says an architecture in config.json's keys, as far as it has them.

    Args:
      arch: {embed_dim, image: {...}, text: {...}} with every tower field.
      siglip: for SiglipModel, else CLIPModel.
      end_id: the tokenizer's end; None: the largest id of the embedding.

    Raises:
      UserError: an image tower that transformers has no class for.
    """
    image, text = arch["image"], arch["text"]
    if image["name"] != "vit":
        raise UserError("--to=hf: transformers has no ResNet CLIP; use --to=open_clip")
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    vision, words = (
        {
            "hidden_size": tower["width"],
            "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
            "num_hidden_layers": tower["num_layers"],
            "num_attention_heads": heads,
            "hidden_act": names[tower["activation"]],
            "layer_norm_eps": tower["norm_eps"],
        }
        for tower, heads in (
            (image, image["width"] // image["head_width"]),
            (text, text["num_heads"]),
        )
    )
    vision |= {"image_size": image["image_size"], "patch_size": image["patch_size"]}
    words |= {
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
    }
    kind, last = ("siglip", {}) if siglip else ("clip", {"projection_dim": arch["embed_dim"]})
    vision, words = vision | last, words | last  # CLIPTextModelWithProjection reads the text's
    if siglip:
        words["projection_size"] = arch["embed_dim"]
    else:
        end = text["vocab_size"] - 1
        # Any id but the last makes CLIPModel look for that id; 2 makes it take the largest.
        words["eos_token_id"] = end if end_id in (None, end) else 2
        words |= {"bos_token_id": end - 1, "pad_token_id": 0}
    return {
        "architectures": ["SiglipModel" if siglip else "CLIPModel"],
        "model_type": kind,
        "vision_config": {"model_type": f"{kind}_vision_model", **vision},
        "text_config": {"model_type": f"{kind}_text_model", **words},
        **last,
    }

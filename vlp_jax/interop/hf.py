"""Name tables of Hugging Face `CLIPModel` and `SiglipModel`, and their config.json both ways.

Names as in transformers 5 (modeling_clip.py, modeling_siglip.py); `pre_layrnorm` is spelled so
there. There is no ResNet CLIP in transformers. The file exists to hold these tables and the
switches that only config.json carries.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.rules import Family, Rule

ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
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


def arch_changes(config: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """What config.json says about the towers that shapes cannot: activation, eps, heads.

    Returns:
      {'image': {activation, norm_eps, head_width}, 'text': {activation, norm_eps, num_heads}}.

    Raises:
      UserError: an unknown activation or, for CLIP, an end token that is not the largest id (we
        pool there).
    """
    siglip = config.get("model_type") == "siglip"
    eps, act = (1e-6, "gelu_pytorch_tanh") if siglip else (1e-5, "quick_gelu")
    towers = {}
    for tower, width in (("vision_config", 768), ("text_config", 768 if siglip else 512)):
        part = config.get(tower) or {}
        name = part.get("hidden_act", act)
        if name not in ACTIVATIONS:
            raise UserError(
                f"{where}: hidden_act {name!r} is not known{nearest(str(name), ACTIVATIONS)}"
            )
        heads = int(
            part.get("num_attention_heads", 8 if tower == "text_config" and not siglip else 12)
        )
        changes = {
            "activation": ACTIVATIONS[name],
            "norm_eps": float(part.get("layer_norm_eps", eps)),
        }
        size = {"head_width": int(part.get("hidden_size", width)) // heads}
        towers[tower] = changes | ({"num_heads": heads} if tower == "text_config" else size)
    text = config.get("text_config") or {}
    last = int(text.get("vocab_size", 49408)) - 1
    end = text.get("eos_token_id", 49407)
    if not siglip and end not in (2, last):  # 2 stands for "the largest id" in old configs
        raise UserError(
            f"{where}: eos_token_id {end} is not the largest id ({last}), where we pool"
        )
    return {"image": towers["vision_config"], "text": towers["text_config"]}


def model_config(arch: Mapping[str, Any], siglip: bool) -> dict[str, Any]:
    """Writes config.json for one of our architectures.

    Args:
      arch: {embed_dim, image: {...}, text: {...}} with every tower field.

    Raises:
      UserError: a tower that transformers has no class for.
    """
    image, text = arch["image"], arch["text"]
    if image["name"] != "vit":
        raise UserError("--to=hf: transformers has no ResNet CLIP; use --to=open_clip")
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    shared = [
        {
            "hidden_size": tower["width"],
            "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
            "num_hidden_layers": tower["num_layers"],
            "num_attention_heads": heads,
            "hidden_act": names[tower["activation"]],
            "layer_norm_eps": tower["norm_eps"],
            "projection_size" if siglip else "projection_dim": arch["embed_dim"],
        }
        for tower, heads in (
            (image, image["width"] // image["head_width"]),
            (text, text["num_heads"]),
        )
    ]
    shared[0] |= {"image_size": image["image_size"], "patch_size": image["patch_size"]}
    shared[1] |= {
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
    }
    if siglip:
        kind, last = "siglip", {}
    else:
        kind, last = "clip", {"projection_dim": arch["embed_dim"]}
        end = text["vocab_size"] - 1
        shared[1] |= {"eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": 0}
    return {
        "architectures": ["SiglipModel" if siglip else "CLIPModel"],
        "model_type": kind,
        "vision_config": {"model_type": f"{kind}_vision_model", **shared[0]},
        "text_config": {"model_type": f"{kind}_text_model", **shared[1]},
        **last,
    }

"""open_clip_config.json both ways: `write` says a dual encoder in open_clip's keys, `read` says
what open_clip builds from them.

`read` knows nothing of `write`: it holds the defaults of CLIPVisionCfg and CLIPTextCfg of
open_clip 3.3.0 (model.py) and the SigLIP trunks of timm 1.0.31 (vision_transformer.py), whose names
alone say their sizes. The file exists because a switch that a config does not say changes
embeddings without a word: an export is refused where the two disagree.
"""

import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop.hf import image_side, mlp_ratio

_TRUNKS = {  # of timm: width, layers, heads, hidden
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
_PLACES = {  # (patch, picture size) -> activation of the trunks that exist
    "base": {(16, size): "gelu" for size in (224, 256, 384, 512)} | {(32, 256): "gelu_tanh"},
    "large": {(16, 256): "gelu", (16, 384): "gelu", (16, 512): "gelu_tanh"},
    "so400m": {(14, size): "gelu" for size in (224, 378, 384)}
    | {(16, size): "gelu_tanh" for size in (256, 384, 512)},
    "giantopt": {(16, 256): "gelu_tanh", (16, 384): "gelu_tanh"},
}
_VISION = {  # defaults of what `read` understands
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16,
    "image_size": 224, "no_ln_pre": False, "pos_embed_type": "learnable", "pool_type": "tok",
    "final_ln_after_pool": False, "act_kwargs": None, "norm_kwargs": None, "timm_model_name": None,
    "timm_pool": "avg", "timm_proj": "linear", "timm_proj_bias": False,
}  # fmt: skip
_TEXT = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12,
    "mlp_ratio": 4.0, "eos_id": 2, "no_causal_mask": False, "pool_type": "argmax",
    "proj_bias": False, "proj_type": "linear", "act_kwargs": None, "norm_kwargs": None,
}  # fmt: skip
_UNTOLD = (  # keys that change no embedding, or nothing where the others have their defaults
    "patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "pad_id",
    "timm_model_pretrained", "timm_drop", "timm_drop_path", "hf_tokenizer_name",
    "tokenizer_kwargs", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
)  # fmt: skip
_MODEL = (
    "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale",
    "init_logit_bias", "nonscalar_logit_scale", "output_dict",
)  # fmt: skip
_POOLS = {("tok", False): "cls", ("tok", True): "cls", ("avg", False): "gap",
          ("avg", True): "gap_norm", ("none", False): "none"}  # fmt: skip
_TEXT_POOLS = {"argmax": "argmax", "first": "first", "last": "last"}


def write(arch: Mapping[str, Any], logit_bias: bool) -> dict[str, Any]:
    """Says an architecture in open_clip's keys, as far as it has them.

    Args:
      arch: {embed_dim, image, text} with every field of the towers.
      logit_bias: whether there is one (SigLIP).

    Raises:
      UserError: an image tower that nothing in open_clip resembles.
    """
    image, text = arch["image"], arch["text"]
    model: dict[str, Any] = {"embed_dim": arch["embed_dim"]}
    if image["name"] == "resnet":
        sizes = {key: image[key] for key in ("image_size", "layers", "width")}
        model["vision_cfg"] = {**sizes, "layers": list(image["layers"]), "patch_size": None}
    elif image["name"] != "vit":
        raise UserError(f"--to=open_clip: has no image tower {image['name']!r}; it has vit, resnet")
    elif image["pool"] == "map":
        model |= {"vision_cfg": _timm(image), "custom_text": True}
    else:
        model["vision_cfg"] = _vit(image)
    model["text_cfg"] = _text(text)
    native = image["name"] == "vit" and image["pool"] != "map"
    if "quick_gelu" in (text["activation"], image["activation"] if native else ""):
        model["quick_gelu"] = True
    if logit_bias:
        model["init_logit_bias"] = -10
    return model


def _vit(image: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("image_size", "width", "head_width", "mlp_ratio", "patch_size")
    config = {"layers": image["num_layers"], **{key: image[key] for key in keys}}
    if not image["pre_norm"]:
        config["no_ln_pre"] = True
    if image["pos_embed"] == "sincos":
        config["pos_embed_type"] = "sin_cos_2d"
    if image["pool"] in ("gap", "gap_norm"):
        config |= {"pool_type": "avg", "final_ln_after_pool": image["pool"] == "gap_norm"}
    return config | _layers(image)


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    keys = {"context_length": "context_length", "vocab_size": "vocab_size", "width": "width",
            "heads": "num_heads", "layers": "num_layers", "mlp_ratio": "mlp_ratio"}  # fmt: skip
    config = {theirs: text[ours] for theirs, ours in keys.items()}
    if not text["causal"]:
        config["no_causal_mask"] = True
    if text["pool"] in ("first", "last"):
        config["pool_type"] = text["pool"]
    if text["head_bias"]:
        config["proj_bias"] = True
    if not text["embed_dim"]:
        config["proj_type"] = "none"
    return config | _layers(text)


def _layers(tower: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if tower["norm_eps"] != 1e-5:
        config["norm_kwargs"] = {"eps": tower["norm_eps"]}
    if tower["activation"] == "gelu_tanh":
        config["act_kwargs"] = {"approximate": "tanh"}
    return config


def _timm(image: Mapping[str, Any]) -> dict[str, Any]:
    hidden = int(image["width"] * image["mlp_ratio"])
    sizes = (image["width"], image["num_layers"], image["width"] // image["head_width"], hidden)
    place = (image["patch_size"], image["image_size"])
    found = [size for size, own in _TRUNKS.items() if own == sizes and place in _PLACES[size]]
    if not found:
        shown = "width {}, {} layers, {} heads, MLP {}".format(*sizes)
        raise UserError(
            "--to=open_clip: method.image.pool='map' needs one of timm's SigLIP trunks"
            f" ({', '.join(_TRUNKS)}); none has {shown}, patches of {place[0]} at {place[1]} pixels"
        )
    config = {
        "image_size": place[1],
        "timm_model_name": f"vit_{found[0]}_patch{place[0]}_siglip_{place[1]}",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "linear" if image["embed_dim"] else "none",
    }
    return config | ({"timm_proj_bias": True} if image["head_bias"] else {})


def read(model: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What open_clip builds from a `model_cfg`: {name, embed_dim, image, text} for make_method.

    Raises:
      UserError: a key or a value that our towers have not.
    """
    _refuse_others(model, {}, _MODEL, f"{where}: model_cfg")
    vision, words = _filled(model, "vision_cfg", _VISION, where), {}
    words = _filled(model, "text_cfg", _TEXT, where)
    quick = bool(model.get("quick_gelu"))
    embed_dim = int(model.get("embed_dim", 512))
    if vision["timm_model_name"]:
        image = _read_timm(vision, where)
    elif isinstance(vision["layers"], list | tuple):
        image = {key: vision[key] for key in ("image_size", "width")}
        image |= {"name": "resnet", "layers": tuple(vision["layers"])}
        if len(image["layers"]) != 4 or vision["head_width"] != 64:
            raise UserError(f"{where}: vision_cfg: a ResNet has four stages and head_width 64")
    else:
        image = _read_vit(vision, quick, where)
    name = "clip" if model.get("init_logit_bias") is None else "siglip"
    text = _read_text(words, quick, where)
    return {"name": name, "embed_dim": embed_dim, "image": image, "text": text}


def _read_vit(vision: Mapping[str, Any], quick: bool, where: str) -> dict[str, Any]:
    pool = _POOLS.get((vision["pool_type"], bool(vision["final_ln_after_pool"])))
    positions = {"learnable": "learned", "sin_cos_2d": "sincos"}.get(vision["pos_embed_type"])
    if pool is None or positions is None:
        key = "pool_type" if pool is None else "pos_embed_type"
        raise UserError(f"{where}: vision_cfg.{key}={vision[key]!r} is not known")
    return {
        "name": "vit",
        "image_size": image_side(vision["image_size"], where),
        "num_layers": vision["layers"],
        **{key: vision[key] for key in ("patch_size", "width", "head_width", "mlp_ratio")},
        "pool": pool,
        "cls_token": True,  # open_clip's ViT always has one
        "pos_embed": positions,
        "pre_norm": not vision["no_ln_pre"],
        "conv_bias": False,
        "head_bias": False,
        **_read_layers(vision, quick, f"{where}: vision_cfg"),
    }


def _read_timm(vision: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = vision["timm_model_name"]
    found = re.fullmatch(r"vit_([a-z0-9]+)_patch(\d+)_siglip_(\d+)", name)
    size, place = (found[1], (int(found[2]), int(found[3]))) if found else ("", (0, 0))
    if place not in _PLACES.get(size, {}) or vision["timm_pool"] != "map":
        raise UserError(f"{where}: timm_model_name {name!r} is not known; SigLIP's trunks are read")
    width, layers, heads, hidden = _TRUNKS[size]
    return {
        "name": "vit",
        "image_size": place[1],
        "patch_size": place[0],
        "width": width,
        "num_layers": layers,
        "head_width": width // heads,
        "mlp_ratio": mlp_ratio(width, hidden),
        "pool": "map",
        "pos_embed": "learned",
        "pre_norm": False,
        "conv_bias": True,
        "head_bias": vision["timm_proj"] == "linear" and bool(vision["timm_proj_bias"]),
        "project": vision["timm_proj"] == "linear",
        "activation": _PLACES[size][place],  # quick_gelu and act_kwargs do not reach timm
        "norm_eps": 1e-6,
    }


def _read_text(words: Mapping[str, Any], quick: bool, where: str) -> dict[str, Any]:
    pool = _TEXT_POOLS.get(words["pool_type"])
    if words["pool_type"] == "eos" and words["eos_id"] == words["vocab_size"] - 1:
        pool = "argmax"
    if pool is None:
        raise UserError(f"{where}: text_cfg.pool_type={words['pool_type']!r} is not known")
    return {
        "name": "text",
        "num_heads": words["heads"],
        "num_layers": words["layers"],
        **{key: words[key] for key in ("context_length", "vocab_size", "width", "mlp_ratio")},
        "causal": not words["no_causal_mask"],
        "pool": pool,
        "head_bias": words["proj_type"] != "none" and bool(words["proj_bias"]),
        "project": words["proj_type"] != "none",
        **_read_layers(words, quick, f"{where}: text_cfg"),
    }


def _read_layers(config: Mapping[str, Any], quick: bool, where: str) -> dict[str, Any]:
    norm, act = dict(config["norm_kwargs"] or {}), dict(config["act_kwargs"] or {})
    eps, approximate = float(norm.pop("eps", 1e-5)), act.pop("approximate", "none")
    if norm or act or approximate not in ("none", "tanh") or (quick and config["act_kwargs"]):
        said = config["norm_kwargs"] if norm else config["act_kwargs"]
        raise UserError(f"{where}: {said} is not known")
    activation = "gelu_tanh" if approximate == "tanh" else "gelu"
    return {"activation": "quick_gelu" if quick else activation, "norm_eps": eps}


def _filled(
    model: Mapping[str, Any], key: str, defaults: Mapping[str, Any], where: str
) -> dict[str, Any]:
    said = model.get(key) or {}
    _refuse_others(said, defaults, _UNTOLD, f"{where}: {key}")
    return {**defaults, **{name: value for name, value in said.items() if name in defaults}}


def _refuse_others(
    said: Mapping[str, Any], defaults: Mapping[str, Any], untold: tuple[str, ...], where: str
) -> None:
    """A key that is not ours may stand in a file where it is off."""
    for key, value in said.items():
        if key not in defaults and key not in untold and value not in (None, False, "", "default"):
            raise UserError(f"{where}.{key}={value!r} is not known to our towers")

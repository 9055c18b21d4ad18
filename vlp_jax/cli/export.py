"""Writes our tree as files that open_clip, transformers or facebookresearch/mae load: weights and,
where they have one, their config beside them.

The file exists to hold what `convert --to` decides about its output.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.interop import hf, mae, open_clip, preprocess
from vlp_jax.interop.folder import replace_folder, write_json
from vlp_jax.interop.rules import Family, to_ours, to_theirs
from vlp_jax.interop.weights_file import read_safetensors, write_safetensors
from vlp_jax.methods.base import make_method

_NAMES = {
    "open_clip": "open_clip_model.safetensors",
    "hf": "model.safetensors",
    "mae": "model.safetensors",
}
_METHODS = {"clip": ("open_clip", "hf"), "siglip": ("open_clip", "hf"), "mae": ("hf", "mae")}
_TIMM = {768: "base", 1024: "large", 1152: "so400m"}


def check_writable(out: str, to: str) -> None:
    """Raises UserError if `out` is in the way."""
    if out.endswith((".pt", ".pth", ".bin")):
        raise UserError(
            f"{out}: pickled files are not written; give a folder or a .safetensors file"
        )
    if out.endswith(".safetensors") and to == "hf":
        raise UserError(f"{out}: --to=hf writes a folder (weights and config.json)")
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise UserError(f"{out}: exists; nothing was written")


def write(
    out: str, to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
) -> list[str]:
    """Writes a folder (or one .safetensors file, but for hf), whole or not at all, and reads it
    back.

    Returns:
      Notes for the user.

    Raises:
      UserError: a method or an architecture that the other library has no class for. RunError: the
        disk.
    """
    name = manifest["method"]["name"]
    if to not in _METHODS.get(name, ()):
        known = "; ".join(f"{key} to {' or '.join(formats)}" for key, formats in _METHODS.items())
        raise UserError(f"--to={to}: method {name!r} cannot be exported so; what can: {known}")
    if name == "mae":
        return _write_mae(out, to, arrays, manifest)
    arch = full_arch(manifest["method"])
    siglip = arch["image"].get("pool") == "map"
    if to == "hf":
        family = hf.HF_SIGLIP if siglip else hf.HF_CLIP
        size = arch["image"]["image_size"]
        configs = {
            "config.json": hf.model_config(arch, siglip),
            "preprocessor_config.json": preprocess.to_hf(manifest["preprocessing"], size, siglip),
        }
        notes = []
    else:
        family = open_clip.OPEN_CLIP_SIGLIP if siglip else open_clip.OPEN_CLIP
        config, notes = open_clip_config(arch, manifest)
        configs = {"open_clip_config.json": config}
    _write(out, _NAMES[to], family, arrays, configs)
    return notes + preprocess.unsaid(manifest["preprocessing"], to)


def _write_mae(
    out: str, to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
) -> list[str]:
    """A masked autoencoder with the fixed position tables, as both libraries store them."""
    from vlp_jax.cli.released_mae import position_tables

    method, pictures = make_method(manifest["method"]), manifest["preprocessing"]
    arrays = {**arrays, **position_tables(method)}
    if to == "mae":
        mae.check_fits(method, "--to=mae: facebookresearch/mae")
        _write(out, _NAMES[to], mae.OFFICIAL_MAE, arrays, {})
        return [mae.unsaid(method, pictures)]
    processor = preprocess.to_hf(pictures, method.image_tower.image_size, siglip=False)
    configs = {
        "config.json": mae.model_config(method),
        "preprocessor_config.json": processor | {"image_processor_type": "ViTImageProcessor"},
    }
    _write(out, _NAMES[to], mae.HF_MAE, arrays, configs)
    return preprocess.unsaid(pictures, to)


def _write(
    out: str,
    name: str,
    family: Family,
    arrays: Mapping[str, np.ndarray],
    configs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Weights under their names, proven, and the configs beside them."""
    state = to_theirs(family, arrays)
    expected = {path: array.shape for path, array in arrays.items()}

    def fill(folder: str) -> None:
        path = os.path.join(folder, name)
        write_safetensors(path, state, {"format": "pt"})
        _prove(path, family, arrays, expected)
        for file, content in configs.items():
            write_json(os.path.join(folder, file), content)

    if out.endswith(".safetensors"):
        _write_file(out, fill, name)
    else:
        replace_folder(out, fill)


def full_arch(config: Mapping[str, Any]) -> dict[str, Any]:
    """{embed_dim, image, text} with every field of the towers, defaults included."""
    method = make_method(config)
    arch: dict[str, Any] = {"embed_dim": method.embed_dim}
    for side, tower in (("image", method.image_tower), ("text", method.text_tower)):
        fields = {
            key: getattr(tower, key)
            for key in tower.__dataclass_fields__
            if key not in ("parent", "name")
        }
        arch[side] = {**fields, "name": config[side]["name"]}
    return arch


def open_clip_config(
    arch: Mapping[str, Any], manifest: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """open_clip_config.json, and notes about what it cannot say."""
    image, text, notes = arch["image"], arch["text"], []
    words = {
        "context_length": text["context_length"],
        "vocab_size": text["vocab_size"],
        "width": text["width"],
        "heads": text["num_heads"],
        "layers": text["num_layers"],
    }
    model: dict[str, Any] = {"embed_dim": arch["embed_dim"], "text_cfg": words}
    if text["activation"] == "quick_gelu":
        model["quick_gelu"] = True
    if image.get("pool") == "map":
        model["vision_cfg"], model["custom_text"] = _timm_config(image), True
        model["init_logit_bias"] = -10
        words |= {
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        }
        if text["activation"] == "gelu_tanh":
            words["act_kwargs"] = {"approximate": "tanh"}
        if image["activation"] != "gelu":
            notes.append(
                "open_clip runs this image tower with exact GELU, the weights want its tanh form"
            )
    elif image["name"] == "vit":
        model["vision_cfg"] = {
            "layers": image["num_layers"],
            **{
                key: image[key]
                for key in ("image_size", "width", "head_width", "mlp_ratio", "patch_size")
            },
        }
    else:
        sizes = {
            "image_size": image["image_size"],
            "layers": list(image["layers"]),
            "width": image["width"],
        }
        model["vision_cfg"] = {**sizes, "patch_size": None}
    return {
        "model_cfg": model,
        "preprocess_cfg": preprocess.to_open_clip(manifest["preprocessing"]),
    }, notes


def _timm_config(image: Mapping[str, Any]) -> dict[str, Any]:
    size = _TIMM.get(image["width"])
    if size is None:
        raise UserError(f"--to=open_clip: timm has no SigLIP trunk of width {image['width']}")
    name = f"vit_{size}_patch{image['patch_size']}_siglip_{image['image_size']}"
    config = {
        "image_size": image["image_size"],
        "timm_model_name": name,
        "timm_model_pretrained": False,
    }
    return {**config, "timm_pool": "map", "timm_proj": "none"}


def _prove(
    path: str, family: Family, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> None:
    back = to_ours(family, read_safetensors(path), expected, path)
    for name, array in arrays.items():
        if not np.array_equal(back[name], array, equal_nan=True):
            raise RunError(f"{path}: {name} does not survive the way there and back")


def _write_file(out: str, fill: Any, name: str) -> None:
    import shutil
    import tempfile

    parent = os.path.dirname(os.path.abspath(out))
    try:
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=parent) as folder:
            fill(folder)
            shutil.move(os.path.join(folder, name), out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})") from error

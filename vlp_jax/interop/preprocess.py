"""How pictures enter a released model: size, crop, mean and std, read from the files that say so.

Sources: `preprocess_cfg` of open_clip_config.json, Hugging Face preprocessor_config.json, and the
defaults of the two releases (openai/CLIP; open_clip's SigLIP entries). The file exists because a
converted checkpoint must carry its own preprocessing: wrong constants cost points without an error.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, nearest

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)  # SigLIP

_CROPS = {
    "shortest": "center",
    "squash": "squash",
    "longest": "pad",
}  # open_clip resize_mode -> data/decode.py
_PIL_FILTERS = {2: "bilinear", 3: "bicubic"}


def default_preprocessing(siglip: bool, hugging_face: bool = False) -> dict[str, Any]:
    """Returns {mean, std, resample, crop} of the release."""
    if siglip:
        return {"mean": HALF, "std": HALF, "resample": "bicubic", "crop": "squash"}
    crop = "center_floor" if hugging_face else "center"
    return {"mean": CLIP_MEAN, "std": CLIP_STD, "resample": "bicubic", "crop": crop}


def from_open_clip(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Reads `preprocess_cfg`; keys that it lacks are absent.

    Raises:
      UserError: a resize mode that we do not have.
    """
    found = {key: tuple(config[key]) for key in ("mean", "std") if config.get(key)}
    if config.get("interpolation"):
        found["resample"] = _resample(config["interpolation"], where)
    if config.get("resize_mode"):
        mode = config["resize_mode"]
        if mode not in _CROPS:
            raise UserError(
                f"{where}: resize_mode {mode!r} is not known{nearest(str(mode), _CROPS)}"
            )
        found["crop"] = _CROPS[mode]
    return found


def from_hf(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Reads preprocessor_config.json; a `shortest_edge` crops, `height` and `width` squash."""
    found = {}
    for key, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if config.get(theirs):
            found[key] = tuple(config[theirs])
    if config.get("resample") is not None:
        found["resample"] = _resample(
            _PIL_FILTERS.get(config["resample"], config["resample"]), where
        )
    size = config.get("size")
    if isinstance(size, int) or (isinstance(size, Mapping) and "shortest_edge" in size):
        found["crop"] = (
            "center_floor"  # where the free width is odd, half a pixel from open_clip's crop
        )
    elif isinstance(size, Mapping) and {"height", "width"} <= set(size):
        found["crop"] = "squash"
    return found


def to_open_clip(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_open_clip`."""
    modes = {ours: theirs for theirs, ours in _CROPS.items()}
    return {
        "mean": list(preprocessing["mean"]),
        "std": list(preprocessing["std"]),
        "interpolation": preprocessing["resample"],
        "resize_mode": modes[preprocessing["crop"].removesuffix("_floor")],
    }


def to_hf(preprocessing: Mapping[str, Any], image_size: int, siglip: bool) -> dict[str, Any]:
    """The inverse of `from_hf`."""
    square = {"height": image_size, "width": image_size}
    crops = preprocessing["crop"].startswith("center")
    filters = {name: number for number, name in _PIL_FILTERS.items()}
    return {
        "image_processor_type": "SiglipImageProcessor" if siglip else "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size} if crops else square,
        "do_center_crop": crops,
        "crop_size": square,
        "resample": filters[preprocessing["resample"]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing["mean"]),
        "image_std": list(preprocessing["std"]),
        "do_convert_rgb": True,
    }


def _resample(name: Any, where: str) -> str:
    if name not in _PIL_FILTERS.values():
        raise UserError(f"{where}: resampling {name!r} is not known; valid: bicubic, bilinear")
    return name

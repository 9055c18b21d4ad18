"""How pictures enter a released model: crop, filter, mean and std, read from the files that say so,
and written to them.

Sources: `preprocess_cfg` of open_clip_config.json and what open_clip 3.3 does where it is silent,
Hugging Face preprocessor_config.json and the processor classes of transformers 5.24, and the
defaults of the two releases (openai/CLIP; open_clip's SigLIP entries). The file exists because a
converted checkpoint must carry its own preprocessing: wrong constants cost points without an error.

Transparency is dropped by all of them where they read files: open_clip's and ImageNet's readers,
and transformers' `load_image`, convert to RGB before they resize. (Handed an open picture, newer
transformers lay it on white, and open_clip's transform converts it last.) All are turned as EXIF
says here, as `load_image` does and open_clip does not.
"""

import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.crops import CENTERS
from vlp_jax.core.errors import UserError, nearest

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # SigLIP
SOURCE = {"alpha": "drop", "fill": 0, "share": 1.0}  # what no file of a release says
_CLIP = SOURCE | {"mean": CLIP_MEAN, "std": CLIP_STD, "resample": "bicubic"}
OPEN_CLIP, HF_CLIP = _CLIP | {"crop": "center"}, _CLIP | {"crop": "center_floor"}
SIGLIP = SOURCE | {"mean": HALF, "std": HALF, "resample": "bicubic", "crop": "squash"}
BLIP = SIGLIP | {"mean": CLIP_MEAN, "std": CLIP_STD}
MAE = OPEN_CLIP | {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
TORCHVISION = MAE | {"resample": "bilinear", "crop": "center_875"}  # its classifiers' first weights
VIT = SIGLIP | {"resample": "bilinear"}
ALIGN = VIT | {"share": 289 / 346}
DIFFUSERS = SIGLIP | {"resample": "lanczos", "crop": "center"}
LITE = MAE | {"crop": "center_875"}  # of ImageNet classifiers; see families/efficientnet_lite.py
INCEPTION = VIT | {"crop": "center", "share": 299 / 342}
_SCALE = (128 / 255,) * 3  # (x - 128) / 128 of bytes
FID = SIGLIP | {"mean": _SCALE, "std": _SCALE, "resample": "bilinear", "resize": "tensorflow"}

_CROPS = {"shortest": "center", "squash": "squash", "longest": "pad"}  # resize_mode -> data/framing
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's number
_ALWAYS = dict(do_resize=True, do_pad=False, do_rescale=True, rescale_factor=1 / 255,
               do_normalize=True, do_center_crop=False, crop_size=224, resample=3)  # fmt: skip
_SQUARE = {"height": 224, "width": 224}
_PROCESSORS: dict[str, dict[str, Any]] = {  # what a class does where its file is silent
    "CLIP": {**_ALWAYS, "size": {"shortest_edge": 224}, "do_center_crop": True,
             "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "Siglip": {**_ALWAYS, "size": _SQUARE, "image_mean": HALF, "image_std": HALF},
    "Blip": {**_ALWAYS, "size": {"height": 384, "width": 384},
             "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "ViT": {**_ALWAYS, "size": _SQUARE, "resample": 2, "image_mean": HALF, "image_std": HALF},
    "EfficientNet": {**_ALWAYS, "size": {"height": 346, "width": 346}, "crop_size": 289,
                     "image_mean": HALF, "image_std": HALF, "include_top": True},
}  # fmt: skip


def for_model(said: Mapping[str, Any], image_size: int, where: str) -> dict[str, Any]:
    """What files said, with the size that the model takes.

    Raises:
      UserError: they make pictures of another size.
    """
    size = said.get("image_size", image_size)
    if size != image_size:
        what = f"the preprocessing beside it makes pictures of {size} pixels"
        hint = f"--image-size={size} resizes a ViT; else correct the size in that file"
        raise UserError(f"{where}: {what}, the model takes {image_size}; {hint}")
    return {**said, "image_size": image_size}


def from_open_clip(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Reads `preprocess_cfg`; open_clip fills in CLIP's values where a key is absent.

    Raises:
      UserError: a resize mode or filter that open_clip does not have.
    """
    said = {key: value for key, value in config.items() if value is not None}
    mode, method = said.get("resize_mode", "shortest"), said.get("interpolation", "bicubic")
    if mode not in _CROPS:
        raise UserError(f"{where}: resize_mode {mode!r} is not known{nearest(str(mode), _CROPS)}")
    if method not in ("bicubic", "bilinear", "random"):
        raise UserError(f"{where}: resampling {method!r} is not known; valid: bicubic, bilinear")
    return SOURCE | {
        "mean": _three(said.get("mean", CLIP_MEAN), f"{where}: mean"),
        "std": _three(said.get("std", CLIP_STD), f"{where}: std", above=0),
        "resample": "bicubic" if method == "random" else method,  # as its evaluation takes it
        "crop": _CROPS[mode],
        "fill": _whole(said.get("fill_color", 0), f"{where}: fill_color"),
    }


def from_hf(config: Mapping[str, Any], where: str, processor: str = "CLIP") -> dict[str, Any]:
    """Reads preprocessor_config.json as its processor class does.

    Args:
      config: the file. where: its path. processor: of a file that names none.

    Returns:
      {mean, std, resample, crop, alpha, fill, share, image_size}; mean and std are of pixels in
      [0, 1], whatever the file scales by.

    Raises:
      UserError: a class or a rule that is not known here.
    """
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or processor
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(name))
    if kind not in _PROCESSORS:
        known = [f"{kind}ImageProcessor" for kind in _PROCESSORS]
        hint = nearest(str(name), known)
        raise UserError(f"{where}: image_processor_type {name!r} is not known{hint}")
    said = _PROCESSORS[kind] | {key: value for key, value in config.items() if value is not None}
    for key in ("do_resize", "do_pad"):
        if bool(said[key]) != _ALWAYS[key]:
            raise UserError(f"{where}: {key} {said[key]!r} cannot be followed")
    return SOURCE | _numbers(said, where) | _geometry(said, kind == "ViT", where)


def _numbers(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """mean, std and filter. (x r - m) / s of bytes x is (x / 255 - m / 255r) / (s / 255r).

    EfficientNet's processor takes 1 from x r first (`rescale_offset`) and divides by s once more
    (`include_top`)."""
    mean, std, factor = (0.0,) * 3, (1.0,) * 3, 1.0
    deviation = _three(said["image_std"], f"{where}: image_std", above=0)
    if said["do_normalize"]:
        mean, std = _three(said["image_mean"], f"{where}: image_mean"), deviation
    if said.get("rescale_offset"):
        mean = tuple(value + 1 for value in mean)
    if said.get("include_top"):
        std = tuple(value * again for value, again in zip(std, deviation, strict=True))
    if said["do_rescale"]:
        factor = _three(said["rescale_factor"], f"{where}: rescale_factor", above=0)[0]
    method = said["resample"]
    if isinstance(method, int) and 0 <= method < len(_FILTERS):
        method = _FILTERS[method]
    if method not in _FILTERS:
        raise UserError(f"{where}: resampling {method!r} is not known; valid: 0 to 5")
    mean, std = (tuple(value / (255 * factor) for value in row) for row in (mean, std))
    return {"mean": mean, "std": std, "resample": method}


def _geometry(said: Mapping[str, Any], square: bool, where: str) -> dict[str, Any]:
    """crop, share and image_size; an int is the edge of a square in a `square` class, else the
    shortest side."""
    size, crops = said["size"], said["do_center_crop"]
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        size, square = size["shortest_edge"], False
    elif not isinstance(size, int):
        size, square = _edge(size, f"{where}: size"), True
    size = _whole(size, f"{where}: size", least=1)
    crop = _edge(said["crop_size"], f"{where}: crop_size") if crops else size
    if square and crop <= size:
        share = {} if crop == size else {"share": crop / size}
        return {"crop": "squash", **share, "image_size": crop}
    if square or not crops or crop > size:
        rule = f"size {said['size']!r} with " + (f"crop_size {crop}" if crops else "no crop")
        raise UserError(f"{where}: {rule} cannot be followed; pictures must be cut to a square")
    return {"crop": "center_floor", "share": crop / size, "image_size": crop}


def to_open_clip(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_open_clip`.

    Raises:
      UserError: a crop or filter that open_clip cannot be told of.
    """
    crop, method = preprocessing["crop"], preprocessing["resample"]
    modes = {ours: theirs for theirs, ours in _CROPS.items()} | {"center_floor": "shortest"}
    share = CENTERS.get(crop, 1.0) * preprocessing.get("share", 1.0)
    if crop not in modes or share != 1:
        what = f"{crop!r} of {share:.3g} of the shortest side" if share != 1 else repr(crop)
        raise UserError(f"--to=open_clip: its config cannot say the crop {what}")
    if method not in ("bicubic", "bilinear"):
        raise UserError(f"--to=open_clip: its config cannot say the filter {method!r}")
    return {
        "mean": list(preprocessing["mean"]),
        "std": list(preprocessing["std"]),
        "interpolation": method,
        "resize_mode": modes[crop],
        "fill_color": preprocessing.get("fill", 0),
    }


def to_hf(preprocessing: Mapping[str, Any], image_size: int, processor: str) -> dict[str, Any]:
    """The inverse of `from_hf`; processor: a key of _PROCESSORS.

    Raises:
      UserError: a crop that no processor of Hugging Face makes.
    """
    square, crop = {"height": image_size, "width": image_size}, preprocessing["crop"]
    if crop not in (*CENTERS, "squash"):
        raise UserError(f"--to=hf: its config cannot say the crop {crop!r}")
    share = CENTERS.get(crop, 1.0) * preprocessing.get("share", 1.0)
    edge = round(image_size / share)
    whole = {"height": edge, "width": edge}
    return {
        "image_processor_type": f"{processor}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": edge} if crop in CENTERS else whole,
        "do_center_crop": crop in CENTERS or edge != image_size,
        "crop_size": square,
        "resample": _FILTERS.index(preprocessing["resample"]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing["mean"]),
        "image_std": list(preprocessing["std"]),
        "do_convert_rgb": True,
        **({"rescale_offset": False, "include_top": False} if "Efficient" in processor else {}),
    }


def unsaid(preprocessing: Mapping[str, Any], rounds: str) -> list[str]:
    """Notes on what another library does otherwise, which its config cannot say; rounds: the crop
    that it makes of an odd rest."""
    notes, crop = [], preprocessing["crop"]
    if preprocessing.get("alpha", "drop") != "drop":
        notes.append("transparent pictures are laid on white here; there their alpha is dropped")
    if crop in CENTERS and crop != rounds:
        notes.append("a centre crop with an odd rest is cut one pixel beside ours there")
    return notes


def _three(value: Any, what: str, above: float = float("-inf")) -> tuple[float, float, float]:
    """One number or three. Raises UserError for anything else, and for one not above `above`."""
    row = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in row)
    if len(row) != 3 or not numbers or not all(v > above for v in row):
        raise UserError(
            f"{what} {value!r} must be three numbers" + f" above {above}" * (above == 0)
        )
    return row


def _whole(value: Any, what: str, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{what} {value!r} must be a whole number of at least {least}")
    return value


def _edge(size: Any, what: str) -> int:
    """Edge of a square: an int, (height, width), or a mapping of both."""
    if isinstance(size, Mapping) and {"height", "width"} == set(size):
        size = (size["height"], size["width"])
    if isinstance(size, list | tuple) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if isinstance(size, list | tuple | Mapping):
        raise UserError(f"{what} {size!r} cannot be followed; pictures must be squares")
    return _whole(size, what, least=1)

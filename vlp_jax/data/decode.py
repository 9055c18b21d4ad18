"""One picture: bytes to uint8[size, size, 3], strictly.

The file exists so that every reader opens odd pictures by the same written rule, refuses
decompression bombs from the header, and decodes large JPEGs at the scale that is needed (DCT
scaling).

Rules: orientation by EXIF (data/orientation.py); modes and transparency by data/rgb.py; first frame
of animations; anything that Pillow cannot read completely raises DamagedSample.
"""

import functools
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.framing import RESAMPLE, Box, Framing
from vlp_jax.data.orientation import (
    forget_xmp,
    is_jpeg,
    jpeg_orientation,
    picture_orientation,
    upright,
)
from vlp_jax.data.rgb import has_clear_pixels, mend_transparency, to_rgb

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "MPO",
)  # never EPS: it runs a program
MAX_PIXELS = 50_000_000  # 200 MB as Pillow's 4-byte pixels
DCT_EIGHTHS = (
    1,
    2,
    4,
    5,
)  # 3/8, 6/8 and 7/8 have no SIMD in libjpeg-turbo and cost more than they save


class Shown(NamedTuple):
    """What part of an upright picture of width x height pixels is shown."""

    width: int
    height: int
    box: Box

    @property
    def aspect(self) -> float:
        """Width over height of the picture."""
        return self.width / self.height


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise DamagedSample("empty_picture")
    if width * height > MAX_PIXELS:
        raise DamagedSample("too_many_pixels")


def _open_pillow(data: bytes, alpha: str) -> Image.Image:
    """A fully decoded, upright RGB picture. Raises DamagedSample."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*image.size)
        forget_xmp(image)
        mend_transparency(image)
        image.load()
        orientation = jpeg_orientation(data) if is_jpeg(data) else picture_orientation(image)
        return upright(to_rgb(image, alpha), orientation)
    except DamagedSample:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DamagedSample("too_many_pixels") from error
    except Exception as error:  # decoders raise a dozen types on hostile bytes
        raise DamagedSample("unreadable_picture") from error


def _open_jpeg(
    data: bytes, least: float, plan
) -> tuple[Image.Image, tuple[int, int], Box, float] | None:
    """A JPEG -> (picture, upright full size, box, scale); None to leave it to Pillow.

    It is decoded at the smallest of DCT_EIGHTHS at which the box still has `least` pixels on its
    short side.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        if colours not in ("YCbCr", "Gray", "RGB"):
            return None
        orientation = jpeg_orientation(data)
        full = (height, width) if orientation >= 5 else (width, height)
        box = plan(full)
        room = min(box.right - box.left, box.bottom - box.top) / least
        eighths = next((k for k in DCT_EIGHTHS if k * room >= 8), 8)
        if orientation > 1 and (height * eighths % 8 or width * eighths % 8):
            eighths = 8  # libjpeg rounds sizes up at the end that a rotation would make the start
        wanted = {"min_height": -(-height * eighths // 8), "min_width": -(-width * eighths // 8)}
        array = simplejpeg.decode_jpeg(data, "RGB", **(wanted if eighths < 8 else {}))
    except ValueError:  # raised also where libjpeg only warns: Pillow has the last word
        return None
    return upright(Image.fromarray(array), orientation), full, box, eighths / 8


def tune_pillow() -> None:
    """For long-running readers: Pillow keeps up to 4 of its 16 MB arenas between pictures (no page
    faults, 6-8 % less time) and does not warn about odd metadata."""
    if Image.core.get_blocks_max() < 4:
        Image.core.set_blocks_max(4)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode_image(
    data: bytes,
    size: int,
    crop: str = "center",
    rng: np.random.Generator | None = None,
    scale: tuple[float, float] = (0.9, 1.0),
    resample: str = "bicubic",
    margin: float | None = None,
) -> np.ndarray:
    """Decodes, crops and resizes one picture to uint8[size, size, 3] in [0, 255]: `decode_framed`
    with a framing made on the spot. Raises as that does and as `Framing`."""
    framing = Framing(crop, scale, resample)
    return decode_framed(data, size, framing, rng, margin)[0]


def decode_framed(
    data: bytes,
    size: int,
    framing: Framing,
    rng: np.random.Generator | None = None,
    margin: float | None = None,
) -> tuple[np.ndarray, Shown]:
    """One picture as a model's preprocessing frames it.

    Args:
        data: an encoded picture. size: edge of the output in pixels. rng: for random crops.
        margin: JPEGs may be decoded at a scale that leaves `margin * size` pixels; inf decodes
        whole pictures. The default is 1 for random crops (above 37 dB to the plain path on natural
        spectra) and inf for the others: bit for bit as Pillow resizes and crops the whole picture,
        as long as that has at most MAX_RESIZED pixels.

    Returns uint8[size, size, 3] in [0, 255] and what part of the picture that is. Raises
    DamagedSample (without a place) for what cannot be read.
    """
    if not data:
        raise DamagedSample("empty_file")
    plan = functools.partial(framing.plan, size=size, rng=rng)
    margin = margin or (1.0 if framing.draws else math.inf)
    opened = _open_jpeg(data, margin * size, plan) if is_jpeg(data) else None
    if opened is None:
        image = _open_pillow(data, framing.alpha)
        opened = image, image.size, plan(image.size), 1.0
    image, full, box, share = opened
    framed = framing.whole(image, full, size)
    if framed is None:
        part = box.scaled(share, share)  # not by the sizes, which libjpeg rounds up
        gap = margin if framing.draws and margin < math.inf else None
        method, part = RESAMPLE[framing.resample], _inside(part, image.size)
        framed = image.resize((size, size), method, box=part, reducing_gap=gap)
    return np.asarray(framed), Shown(*full, box)


def frame_picture(picture: Image.Image, size: int, framing: Framing) -> np.ndarray:
    """An open Pillow picture, which stays as it is, framed as `decode_framed` frames its file:
    uint8[size, size, 3]. Raises DamagedSample.
    """
    image = _upright_copy(picture, framing.alpha)
    framed = framing.whole(image, image.size, size)
    if framed is None:
        box = _inside(framing.plan(image.size, size, None), image.size)
        framed = image.resize((size, size), RESAMPLE[framing.resample], box=box)
    return np.asarray(framed)


def whole_picture(picture: bytes | Image.Image, opaque: bool = False) -> np.ndarray:
    """All of a file's content or of an open picture, upright, transparency on white: uint8[H, W,
    3]. Raises DamagedSample, `see_through` for a picture that must be `opaque` and is not.
    """
    if isinstance(picture, bytes):
        try:
            picture = Image.open(io.BytesIO(picture), formats=FORMATS)
        except Exception as error:  # as _open_pillow
            raise DamagedSample("unreadable_picture") from error
    pixels = np.asarray(_upright_copy(picture, "white"))
    if opaque and has_clear_pixels(picture):
        raise DamagedSample("see_through")
    return pixels


def _upright_copy(picture: Image.Image, alpha: str) -> Image.Image:
    """An open picture as RGB. Raises DamagedSample."""
    try:
        _check_size(*picture.size)
        if isinstance(picture, ImageFile.ImageFile):
            mend_transparency(picture)
        image = picture.copy()  # reads a lazy one
        return upright(to_rgb(image, alpha), picture_orientation(image))
    except DamagedSample:
        raise
    except Exception as error:  # as _open_pillow
        raise DamagedSample("unreadable_picture") from error


def shrink(data: bytes, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """An upright picture of at most side x side pixels, its aspect kept and nothing enlarged,
    transparency on white; and the width and height of the whole. Raises DamagedSample.
    """
    if not data:
        raise DamagedSample("empty_file")
    opened = _open_jpeg(data, side, lambda full: Box(0, 0, *full)) if is_jpeg(data) else None
    image = opened[0] if opened else _open_pillow(data, "white")
    full = opened[1] if opened else image.size
    ratio = max(1.0, max(full) / side)
    size = tuple(max(1, round(edge / ratio)) for edge in full)
    return (image if image.size == size else image.resize(size, RESAMPLE["bicubic"])), full


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """`box` cut to the picture, against rounding in the last bit."""
    return Box(
        max(0.0, box.left), max(0.0, box.top), min(size[0], box.right), min(size[1], box.bottom)
    )


def _picture(example: Mapping[str, Any]) -> bytes:
    return example.get("image", b"")


def check_colour(
    source: Sequence[Mapping[str, Any]],
    path: str,
    picture: Callable[[Mapping[str, Any]], bytes] = _picture,
    looks: int = 16,
) -> None:
    """Refuses a source whose `looks` evenly spaced pictures are all grey, damaged ones aside;
    picture: f(example) -> an encoded picture.

    Raises:
      UserError: names data.path.
    """
    seen = 0
    for index in np.linspace(0, len(source) - 1, min(looks, len(source))).astype(int):
        try:
            pixels = decode_image(picture(source[int(index)]), 32, "squash").astype(int)
        except DamagedSample:
            continue
        if np.ptp(pixels, axis=-1).max() > 8:  # JPEG's rounding colours greys by less
            return
        seen += 1
    if seen:
        raise UserError(f"data.path={path!r}: all pictures are grey; this method learns colours")

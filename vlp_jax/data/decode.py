"""One picture: bytes to uint8[size, size, 3], strictly.

Crops follow torchvision's RandomResizedCrop and open_clip's eval transform (shortest side to size,
bicubic with antialiasing, centre crop). The file exists so that every reader converts odd pictures
by the same written rule, refuses decompression bombs from the header, and decodes large JPEGs at
the scale that is needed (DCT scaling).

Rules: EXIF orientation applied; alpha over white; grey repeated; CMYK converted; 16-bit scaled by
1/257; first frame of animations; anything that Pillow cannot read completely raises DamagedSample.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.damage import DamagedSample

CENTERS = {"center": 1.0, "center_floor": 1.0, "center_875": 0.875}  # share of the shortest side
CROPS = ("random", *CENTERS, "squash", "pad")
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
_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR,
             "lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}  # fmt: skip
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Box(NamedTuple):
    """A rectangle in pixels of the upright picture; edges may be fractional."""

    left: float
    top: float
    right: float
    bottom: float

    def scaled(self, x: float, y: float) -> "Box":
        return Box(self.left * x, self.top * y, self.right * x, self.bottom * y)


def random_box(
    width: int, height: int, rng: np.random.Generator, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3)
) -> Box:
    """A box of random area (share of the picture in `scale`) and aspect, as RandomResizedCrop draws
    it."""
    area = width * height
    for _ in range(10):
        target = area * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return Box(left, top, left + w, top + h)
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    top, left = (height - h) // 2, (width - w) // 2
    return Box(left, top, left + w, top + h)


def _has_exif(data: bytes) -> bool:
    """Whether a JPEG carries an EXIF segment, from its marker segments alone."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] not in (0xDA, 0xD9) and at + 10 < len(data):
        if data[at + 1] == 0xE1 and data[at + 4 : at + 8] == b"Exif":
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _orientation(data: bytes) -> int:
    if not _has_exif(data):
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block says nothing about the picture
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """RGB on white from any mode that Pillow reads."""
    if image.mode.startswith(("I;16", "I")):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(wide, 0, 65535) / 257 + 0.5).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "F":
        return Image.fromarray(
            np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8)
        ).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise DamagedSample("empty_picture")
    if width * height > MAX_PIXELS:
        raise DamagedSample("too_many_pixels")


def _open_pillow(data: bytes) -> Image.Image:
    """A fully decoded, upright RGB picture. Raises DamagedSample."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*image.size)
        image.load()
        orientation = int(image.getexif().get(0x0112, 1)) if image.format != "GIF" else 1
        image = _flatten(image)
        return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image
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
        orientation = _orientation(data)
        full = (height, width) if orientation >= 5 else (width, height)
        box = plan(*full)
        room = min(box.right - box.left, box.bottom - box.top) / least
        eighths = next((k for k in DCT_EIGHTHS if k * room >= 8), 8)
        if orientation > 1 and (height * eighths % 8 or width * eighths % 8):
            eighths = 8  # libjpeg rounds sizes up at the end that a rotation would make the start
        wanted = {"min_height": -(-height * eighths // 8), "min_width": -(-width * eighths // 8)}
        array = simplejpeg.decode_jpeg(data, "RGB", **(wanted if eighths < 8 else {}))
    except ValueError:  # raised also where libjpeg only warns: Pillow has the last word
        return None
    image = Image.fromarray(array)
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return image, full, box, eighths / 8


def tune_pillow() -> None:
    """For long-running readers: Pillow keeps up to 4 of its 16 MB arenas between pictures (no page
    faults, 6-8 % less time) and does not warn about odd metadata."""
    if Image.core.get_blocks_max() < 4:
        Image.core.set_blocks_max(4)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def _planner(size: int, crop: str, rng: np.random.Generator | None, scale: tuple[float, float]):
    """Upright width and height -> the Box that will fill the output."""

    def plan(width: int, height: int) -> Box:
        if crop == "random":
            return random_box(width, height, rng, scale)
        if crop in CENTERS:
            wide, high = _shortest_to((width, height), size, crop)
            left, top = _margin(wide - size, crop), _margin(high - size, crop)
            return Box(left, top, left + size, top + size).scaled(width / wide, height / high)
        return Box(0, 0, width, height)

    return plan


def _shortest_to(full: tuple[int, int], size: int, crop: str) -> tuple[int, int]:
    """Width and height once the shortest side fits the crop, rounded as torchvision does."""
    short = round(size / CENTERS[crop])
    return int(short * full[0] / min(full)), int(short * full[1] / min(full))


def _margin(free: int, crop: str) -> int:
    """Pixels left of a centre crop: open_clip rounds half to even, Hugging Face's processors round
    down."""
    return free // 2 if crop == "center_floor" else round(free / 2)


def _center(image: Image.Image, full: tuple[int, int], size: int, method, crop: str) -> Image.Image:
    """Shortest side resized, then the middle: bit for bit as resize and crop of the whole
    picture."""
    wide, high = _shortest_to(full, size, crop)
    if image.size != (wide, high):
        image = image.resize((wide, high), method)
    left, top = _margin(wide - size, crop), _margin(high - size, crop)
    return (
        image if (wide, high) == (size, size) else image.crop((left, top, left + size, top + size))
    )


def _pad(image: Image.Image, full: tuple[int, int], size: int, method) -> Image.Image:
    side = max(full)
    small = image.resize([max(1, round(size * edge / side)) for edge in full], method)
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return canvas


def decode_image(
    data: bytes,
    size: int,
    crop: str = "center",
    rng: np.random.Generator | None = None,
    scale: tuple[float, float] = (0.9, 1.0),
    resample: str = "bicubic",
    margin: float | None = None,
) -> np.ndarray:
    """Decodes, crops and resizes one picture to uint8[size, size, 3] in [0, 255].

    Args:
        data: an encoded picture. size: edge of the output in pixels. crop: 'random' (area share
        drawn from `scale` by `rng`), 'center' (as open_clip), 'center_floor' (as Hugging Face),
        'center_875' (256 -> 224 of ImageNet classifiers), 'squash' (aspect not kept) or 'pad'
        (white bars). margin: JPEGs may be decoded at a scale
        that leaves `margin * size` pixels; inf decodes whole pictures. The default is 1 for
        'random' (above 37 dB to the plain path on natural spectra) and inf, bit-exact, for the
        others.

    Raises DamagedSample (without a place) for what cannot be read, UserError for an unknown crop or
    filter.
    """
    return decode_shaped(data, size, crop, rng, scale, resample, margin)[0]


def decode_shaped(
    data: bytes,
    size: int,
    crop: str,
    rng: np.random.Generator | None,
    scale: tuple[float, float],
    resample: str,
    margin: float | None = None,
) -> tuple[np.ndarray, float]:
    """As decode_image, and the upright picture's width over height."""
    if crop not in CROPS:
        raise UserError(f"data.image.crop={crop!r} is unknown" + nearest(crop, CROPS))
    if resample not in _RESAMPLE:
        raise UserError(
            f"data.image.resample={resample!r} is unknown" + nearest(resample, _RESAMPLE)
        )
    if not data:
        raise DamagedSample("empty_file")
    method, plan = _RESAMPLE[resample], _planner(size, crop, rng, scale)
    margin = margin or (1.0 if crop == "random" else math.inf)
    opened = _open_jpeg(data, margin * size, plan) if data[:3] == b"\xff\xd8\xff" else None
    if opened is None:
        image = _open_pillow(data)
        opened = image, image.size, plan(*image.size), 1.0
    image, full, box, share = opened
    if crop == "pad":
        image = _pad(image, full, size, method)
    elif crop in CENTERS and share == 1 and max(full) <= 4 * min(full):
        image = _center(image, full, size, method, crop)
    else:
        box = box.scaled(share, share)  # not by the sizes, which libjpeg rounds up
        gap = margin if crop == "random" and margin < math.inf else None
        image = image.resize((size, size), method, box=_inside(box, image.size), reducing_gap=gap)
    return np.asarray(image), full[0] / full[1]


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """`box` cut to the picture, against rounding in the last bit."""
    return Box(
        max(0.0, box.left), max(0.0, box.top), min(size[0], box.right), min(size[1], box.bottom)
    )


def check_colour(source: Sequence[Mapping[str, Any]], path: str, looks: int = 16) -> None:
    """Refuses a source whose `looks` evenly spaced pictures are all grey, damaged ones aside.

    Raises:
      UserError: names data.path.
    """
    seen = 0
    for index in np.linspace(0, len(source) - 1, min(looks, len(source))).astype(int):
        try:
            pixels = decode_image(source[int(index)].get("image", b""), 32, "squash").astype(int)
        except DamagedSample:
            continue
        if np.ptp(pixels, axis=-1).max() > 8:  # JPEG's rounding colours greys by less
            return
        seen += 1
    if seen:
        raise UserError(f"data.path={path!r}: all pictures are grey; this method learns colours")

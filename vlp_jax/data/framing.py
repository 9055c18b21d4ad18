"""Which part of a picture is shown, and how it becomes size x size pixels.

Crops follow torchvision's RandomResizedCrop and open_clip's eval transform (shortest side to size,
antialiasing, centre crop). The file exists so that a model's preprocessing is one value, handed on
whole by everything that decodes pictures for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vlp_jax.core.crops import CENTERS
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.rgb import ALPHAS

CROPS = ("random", "squash_random", "short_random", *CENTERS, "squash", "pad")
_FILTERS = ("bicubic", "bilinear", "lanczos", "nearest", "box", "hamming")
RESAMPLE = {name: Image.Resampling[name.upper()] for name in _FILTERS}
MAX_RESIZED = 50_000_000  # pixels of a whole resized picture: 200 MB in Pillow


class Box(NamedTuple):
    """A rectangle in pixels of the upright picture; edges may be fractional."""

    left: float
    top: float
    right: float
    bottom: float

    def scaled(self, x: float, y: float) -> "Box":
        return Box(self.left * x, self.top * y, self.right * x, self.bottom * y)


@dataclass(frozen=True)
class Framing:
    """What preprocessing says beside size, mean and deviation.

    crop: 'random' (area share drawn from `scale`), 'center' (as open_clip), 'center_floor' (as
    Hugging Face), 'center_875' (256 -> 224 of ImageNet classifiers), 'squash' (aspect not kept),
    'squash_random' (a random place of the squashed picture, ALIGN), 'short_random' (of one whose
    shortest side fits, SDXL) or 'pad' (bars of the grey level
    `fill`, 0..255). share: of the shortest side, what a centre crop shows of the width that its
    name says; of both sides of a squashed picture, whose centre 'squash' shows. resample: a Pillow
    filter. alpha: transparency is laid on 'white', or 'drop'ped as by Pillow's conversion to RGB.

    Raises UserError for a crop, filter or alpha that is unknown, or no interval as `scale`.
    """

    crop: str = "center"
    scale: tuple[float, float] = (0.9, 1.0)
    resample: str = "bicubic"
    alpha: str = "white"
    fill: int = 255
    share: float = 1.0

    def __post_init__(self) -> None:
        for key, known in (("crop", CROPS), ("resample", RESAMPLE), ("alpha", ALPHAS)):
            value = getattr(self, key)
            if value not in known:
                hint = nearest(str(value), known)
                raise UserError(f"data.image.{key}={value!r} is unknown{hint}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            wanted = "must be (low, high) with 0 < low <= high <= 1"
            raise UserError(f"data.image.scale={tuple(self.scale)} {wanted}")

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> "Framing":
        """That of a mapping which holds more; absent keys have their defaults."""
        return cls(**{k: v for k, v in preprocessing.items() if k in cls.__dataclass_fields__})

    @property
    def centers(self) -> bool:
        return self.crop in CENTERS or self.crop == "short_random"

    @property
    def draws(self) -> bool:
        """Whether the box is drawn at random."""
        return self.crop in ("random", "squash_random", "short_random")

    def plan(self, full: tuple[int, int], size: int, rng: np.random.Generator | None) -> Box:
        """The part of an upright picture of width and height `full` that will fill the output."""
        if self.crop == "random":
            return random_box(*full, rng, self.scale)
        if self.crop == "pad":
            return Box(0, 0, *full)
        wide, high = self._resized(full, size)
        left, top = (
            self._margin(free) if rng is None or not self.draws else int(rng.integers(free + 1))
            for free in (wide - size, high - size)
        )
        box = Box(left, top, left + size, top + size)
        return box.scaled(full[0] / wide, full[1] / high)

    def whole(self, image: Image.Image, full: tuple[int, int], size: int) -> Image.Image | None:
        """Frames by resizing all of the picture, bit for bit as other libraries do; None where the
        box must be cut out first: random, too long, or decoded at a scale (`full` tells)."""
        if self.crop == "pad":
            return self._pad(image, full, size)
        wide, high = self._resized(full, size)
        if self.draws or image.size != full or wide * high > MAX_RESIZED:
            return None
        if image.size != (wide, high):
            image = image.resize((wide, high), RESAMPLE[self.resample])
        left, top = self._margin(wide - size), self._margin(high - size)
        alone = (wide, high) == (size, size)
        return image if alone else image.crop((left, top, left + size, top + size))

    def _resized(self, full: tuple[int, int], size: int) -> tuple[int, int]:
        """Width and height of the whole picture that the output is cut from: once the shortest side
        fits a centre crop, rounded as torchvision does, or once it is squashed."""
        if not self.centers:
            return (round(size / self.share),) * 2
        short = round(size / (CENTERS.get(self.crop, 1.0) * self.share))
        return int(short * full[0] / min(full)), int(short * full[1] / min(full))

    def _margin(self, free: int) -> int:
        """Pixels left of a centre crop: open_clip rounds half to even, Hugging Face's processors
        (and so a squashed picture's) round down."""
        return round(free / 2) if self.centers and self.crop != "center_floor" else free // 2

    def _pad(self, image: Image.Image, full: tuple[int, int], size: int) -> Image.Image:
        """The longest side to `size`, in the middle of bars."""
        ratio = max(full) / size
        edges = [max(1, round(edge / ratio)) for edge in full]
        small = image.resize(edges, RESAMPLE[self.resample])
        canvas = Image.new("RGB", (size, size), (self.fill,) * 3)
        canvas.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
        return canvas


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

"""What a network that judges pictures is shown: each as its own rule resizes it.

`tensorflow` is the bilinear rule of TensorFlow 1, without antialiasing or rounding, on which FID is
defined (torch-fidelity 0.4, interpolate_compat_tensorflow.py); `clean` is Pillow's bicubic of each
channel in float32 (clean-fid, arXiv:2104.11222); `own` is the preprocessing that a checkpoint
carries. The file exists because a FID moves by points with this rule alone.
"""

import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from vlp_jax.core.fields import Numbers
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import decode_framed, frame_picture, shrink
from vlp_jax.data.fields.base import Reader, Stream
from vlp_jax.data.framing import Framing
from vlp_jax.data.source import Example

OWN = "own"
_WHOLE = 2**30  # a side that no picture has


def tensorflow_bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8[H, W, 3] -> float32[size, size, 3] in [0, 255]: output i lies at i * H / size, between
    the pixels there and next to it.

    Worked example: a row 0, 100 to four: 0, 50, 100, 100.
    """
    x = pixels.astype(np.float32)
    for axis in (1, 0):
        sides = x.shape[axis]
        at = np.arange(size, dtype=np.float32) * np.float32(sides / size)
        low = at.astype(np.int64)
        high = np.minimum(low + 1, sides - 1)
        share = (at - low.astype(np.float32)).reshape((-1, 1) if axis else (-1, 1, 1))
        first = x.take(low, axis)
        x = first + (x.take(high, axis) - first) * share
    return x


def clean_bicubic(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8[H, W, 3] -> float32[size, size, 3] in [0, 255], antialiased."""
    channels = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    made = [channel.resize((size, size), Image.Resampling.BICUBIC) for channel in channels]
    return np.clip(np.stack([np.asarray(one) for one in made], axis=-1), 0, 255)


FLOATS = {"tensorflow": tensorflow_bilinear, "clean": clean_bicubic}


class View(Reader):
    """Rows: the sample's picture, uint8[S, S, 3] by the rule `own`, else float32 in [0, 255].

    Attributes:
      rule: `own` or a key of FLOATS. size: S. framing: of the rule `own`.
      first: (size, framing) that a picture is brought to before, as a model's own pictures are;
        None leaves it.
    """

    picture = True

    def __init__(
        self, rule: str, size: int, framing: Framing, first: tuple[int, Framing] | None = None
    ):
        self.name, self.rule, self.size, self.framing = "image", rule, size, framing
        self.first = first
        self.field = Numbers((size, size, 3), "uint8" if rule == OWN else "float32")

    def settings(self) -> dict[str, Any]:
        """What a row depends on beside its sample, as plain values."""
        first = (self.first[0], vars(self.first[1])) if self.first else None
        own = vars(self.framing) if self.rule == OWN else None
        return {"rule": self.rule, "size": self.size, "framing": own, "first": first}

    def read(self, example: Example, stream: Stream, clipped: Counter) -> np.ndarray:
        """See View. Raises DamagedSample."""
        if "image" not in example:
            raise DamagedSample("no_image")
        if self.first:
            picture = Image.fromarray(decode_framed(example["image"], *self.first)[0])
        else:
            picture, _ = shrink(example["image"], _WHOLE)
        if self.rule == OWN:
            return frame_picture(picture, self.size, self.framing)
        return FLOATS[self.rule](np.asarray(picture), self.size)

    def arrays(self, rows: list[Any], limit: int | None = None) -> dict[str, np.ndarray]:
        """image."""
        return {self.name: np.stack(rows)}


class Drawn:
    """Pictures uint8[N, H, W, 3] as a source."""

    fingerprint, damage = "drawn", ()

    def __init__(self, pictures: np.ndarray):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Example:
        file = io.BytesIO()
        Image.fromarray(self.pictures[i]).save(file, "BMP")  # nothing is lost, nothing packed
        return {**self.metadata(i), "image": file.getvalue()}

    def metadata(self, i: int) -> Example:
        return {"key": str(i), "text": [], "meta": {}}

    def where(self, i: int) -> str:
        return f"drawn picture {i}"

"""encode_png is lossless, and smaller than Pillow's own."""

import io

import numpy as np
import pytest
from PIL import Image

from vlp_jax.data.png import _filtered, encode_png


def _drawings():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    disc = np.hypot(x - 31.5, y - 31.5) / 32
    shade = np.stack([255 * np.clip(1.2 - disc, 0, 1), 4.0 * x, 4.0 * y], -1).astype(np.uint8)
    shade[disc > 0.9] = 255
    flat = np.where(disc[..., None] < 0.6, [200, 30, 40], [255, 255, 255]).astype(np.uint8)
    grey = np.repeat((255 * np.clip(disc, 0, 1)).astype(np.uint8)[..., None], 3, -1)
    return {
        "shade": shade,
        "flat": flat,
        "grey": grey,
        "noise": rng.integers(0, 256, (7, 5, 3), np.uint8),
    }


@pytest.mark.parametrize("name", ["shade", "flat", "grey", "noise"])
def test_pixels_come_back_and_the_file_is_small(name):
    pixels = _drawings()[name]
    data, theirs = encode_png(pixels), io.BytesIO()
    assert (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) == pixels).all()
    Image.fromarray(pixels).save(theirs, "PNG", optimize=True)
    assert len(data) <= len(theirs.getvalue())
    assert data == encode_png(pixels)


def test_colour_type_follows_the_content():
    drawings = _drawings()
    modes = {name: Image.open(io.BytesIO(encode_png(d))).mode for name, d in drawings.items()}
    assert modes["grey"] == "L" and modes["flat"] == "P" and modes["shade"] == "RGB"


@pytest.mark.parametrize(
    ("left", "up", "corner", "paeth"),
    [(20, 13, 10, 20), (13, 20, 10, 20), (30, 10, 19, 19), (9, 9, 9, 9)],
)
def test_filters_are_those_of_the_standard(left, up, corner, paeth):
    rows = _filtered(np.array([[[corner], [up]], [[left], [5]]], np.uint8))
    predicted = [0, left, up, (left + up) // 2, paeth]
    assert rows[:, 1, 1].tolist() == [(5 - p) % 256 for p in predicted]
    assert rows[:, 0, 0].tolist() == [
        corner,
        corner,
        corner,
        corner,
        corner,
    ]  # nothing to predict from


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match="uint8\\[H, W, 3\\]"):
        encode_png(pixels)

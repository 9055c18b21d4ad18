"""A scene as arrays: the picture, which object and which kind is at each pixel, the edges.

The file exists so that the maps of a scene are made from the very masks it is drawn with.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from vlp_jax.data.scenes.layout import CANVAS, Placed, Scene
from vlp_jax.data.scenes.things import sized


class Drawn(NamedTuple):
    """picture: uint8[96, 96, 3] on white; instances: uint8[96, 96], 0 for the canvas, n for
    `objects[n - 1]`."""

    picture: np.ndarray
    instances: np.ndarray


def _window(placed: Placed) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where on the canvas an object's picture lies, and which part of it that is."""
    starts = [max(0, corner) for corner in placed.corner]
    ends = [min(CANVAS, corner + placed.side) for corner in placed.corner]
    spans = list(zip(starts, ends, placed.corner, strict=True))
    on_canvas = tuple(slice(start, end) for start, end, _ in spans)
    of_picture = tuple(slice(start - corner, end - corner) for start, end, corner in spans)
    return on_canvas, of_picture


def draw(scene: Scene) -> Drawn:
    """Draws the objects from back to front."""
    picture = np.full((CANVAS, CANVAS, 3), 255, np.uint8)
    instances = np.zeros((CANVAS, CANVAS), np.uint8)
    for number, placed in enumerate(scene.objects, 1):
        pixels, cover = sized(scene.style, placed.thing.look, placed.side, placed.change)
        here, part = _window(placed)
        share = cover[part][..., None]
        mixed = share * pixels[part] + (1 - share) * picture[here]
        picture[here] = np.uint8(np.round(mixed))
        instances[here][cover[part] >= 0.5] = number
    return Drawn(picture, instances)


def png(pixels: np.ndarray) -> bytes:
    """uint8[H, W] or uint8[H, W, 3] as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=4)
    return file.getvalue()

"""The contact sheet of pictures that a model drew, each over its prompt and seed.

The file exists because drawn pictures are judged by eye, many at a time.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vlp_jax.report.canvas import literal_text, new_figure, save, show_picture, wrapped

MOST = 96  # pictures of a sheet
_SIDE, _WORDS, _HEAD = 1.5, 0.36, 0.5  # inches


@literal_text
def drawn_sheet(
    files: Sequence[str], words: Sequence[str], out: str, per_prompt: int = 1, count: int = 0
) -> str:
    """Draws the pictures in lines from the left; returns the path of the PNG.

    Args:
      files: at most MOST. words: below each.
      per_prompt: pictures of a prompt, which have lines of their own where they fit.
      count: of all pictures that there are; 0: as many as files.
    """
    pictures = [_thumbnail(path) for path in files]
    columns = per_prompt if 1 < per_prompt <= 10 else min(6, max(1, len(files)))
    lines = -(-len(files) // columns)
    tall = _SIDE * max((p.shape[0] / p.shape[1] for p in pictures), default=1.0)
    width, step = 0.1 + columns * (_SIDE + 0.1), tall + _WORDS
    height = _HEAD + lines * step
    figure = new_figure(width, height)
    number = count or len(files)
    title = f"{number:,} picture{'s' * (number != 1)}"
    title += f", the first {len(files)}" if number > len(files) else ""
    figure.text(0.1 / width, 1 - 0.25 / height, title, fontsize=10, weight="bold", va="center")
    for i, (picture, text) in enumerate(zip(pictures, words, strict=True)):
        line, column = divmod(i, columns)
        x, y = 0.1 + column * (_SIDE + 0.1), height - _HEAD - line * step - tall
        place = (x / width, y / height, _SIDE / width, tall / height)
        show_picture(figure.add_axes(place), picture)
        said = wrapped(text, 30, 2)
        figure.text(x / width, (y - 0.04) / height, said, fontsize=6, va="top")
    return save(figure, out)


def _thumbnail(path: str, side: int = 220) -> np.ndarray:
    """uint8[H, W, 3] of at most `side` pixels."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    return np.asarray(small)

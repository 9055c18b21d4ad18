"""The contact sheet of composed scenes: pictures with their maps, and what is said and
asked of them.

The file exists because a wrong caption or a hole in a mask is seen at once, and hardly otherwise.
"""

import glob
import io
import os

import numpy as np
from PIL import Image

from vlp_jax.data.open import open_source
from vlp_jax.data.prepare_emoji_scenes import NAME
from vlp_jax.data.scenes.samples import SPLITS
from vlp_jax.data.source import Example
from vlp_jax.report.canvas import (
    BLUE,
    GREEN,
    RED,
    literal_text,
    new_figure,
    save,
    show_picture,
    wrapped,
)

SHOWN = 8  # samples of a split
MAPS = ("instance.png", "edge.png")
_COLOURS = np.asarray(
    [[255, 255, 255], [0, 114, 178], [230, 159, 0], [0, 158, 115], [213, 94, 0]], np.uint8
)


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _panels(example: Example) -> list[np.ndarray]:
    """The picture, and of a scene the objects by colour and the edges: uint8[H, W, 3] each."""
    found = [_pixels(example["image"])]
    if MAPS[0] in example["members"]:
        numbers = np.asarray(Image.open(io.BytesIO(example["members"][MAPS[0]])))
        found += [_COLOURS[numbers], 255 - _pixels(example["members"][MAPS[1]])]
    return found


def _lines(example: Example) -> list[tuple[str, str]]:
    """What is written below a sample, with its colour."""
    meta = example["meta"]
    if "question" in meta:
        others = sorted(set(meta["answers"]) - {meta["answer"]})
        told = " / ".join([meta["answer"], *others])
        return [(meta["question"], "#333333"), (told, GREEN)]
    colour = "#333333" if meta.get("clean", True) else RED
    found = [(text, colour) for text in example["text"]]
    asked = meta.get("questions", [])[:2]
    return found + [(f"{one['question']} {one['answer']}", BLUE) for one in asked]


@literal_text
def scene_sheet(folder: str, out: str) -> str:
    """Draws samples from all over every split in a folder of `data prepare emoji_scenes`, wrong
    captions in red; returns the path of the PNG."""
    sources = {}
    for split in SPLITS:
        if glob.glob(f"{NAME}-{split}-*.tar", root_dir=folder):
            sources[split] = open_source(os.path.join(folder, f"{NAME}-{split}-*.tar"))
    head, cell, columns = 0.35, 2.35, 4
    blocks = {split: -(-min(SHOWN, len(source)) // columns) for split, source in sources.items()}
    width, column = 15.0, 15.0 / columns
    height = 0.2 + sum(head + cell * rows for rows in blocks.values())
    figure, y = new_figure(width, height), height - 0.1
    for split, source in sources.items():
        title = f"{split}: {len(source):,} samples"
        figure.text(0.01, (y - head / 2) / height, title, fontsize=11, weight="bold", va="center")
        y -= head
        for i in range(shown := min(SHOWN, len(source))):
            left, top = (i % columns) * column + 0.1, y - cell * (i // columns)
            _cell(figure, (left, top), source[i * len(source) // shown])
        y -= cell * blocks[split]
    return save(figure, out)


def _cell(figure, place: tuple[float, float], example: Example) -> None:
    """Draws one sample with its upper left corner at inches (left, top)."""
    (left, top), side = place, 1.1
    width, height = figure.get_size_inches()
    for i, panel in enumerate(_panels(example)):
        x = left + i * (side + 0.05)
        axes = figure.add_axes((x / width, (top - side) / height, side / width, side / height))
        show_picture(axes, panel)
    y = top - side - 0.1
    for text, colour in _lines(example):
        text = wrapped(text, 62, 1)
        figure.text(left / width, y / height, text, fontsize=6.5, color=colour, va="center")
        y -= 0.15

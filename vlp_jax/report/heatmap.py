"""Which prompt does each picture choose: a labelled table with colour and pictures as row headers.

After the similarity figure of CLIP (arXiv:2103.00020, figure 21). The file exists because a number
says how often a model is wrong, and only the table says with what it confuses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from vlp_jax.report.canvas import (
    RED,
    literal_text,
    new_figure,
    printable,
    save,
    show_picture,
    wrapped,
)

CELL = 0.72  # inches
LEFT, BOTTOM = 0.95, 0.7


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def similarity_table(
    pictures: Sequence[np.ndarray],
    prompts: Sequence[str],
    cosine: np.ndarray,
    out: str,
    scale: float = 100.0,
    right: Sequence[int] = (),
) -> str:
    """Draws pictures x prompts; colour and percentage are softmax(scale * cosine) over each row.

    cosine: float32[P, Q]. scale: exp(logit_scale). right: column of the right prompt of each
    picture, framed. Returns the path of the PNG.
    """
    share = softmax(scale * np.asarray(cosine, np.float64))  # [P, Q]
    note = f"Softmax of {scale:.4g} x cosine over the prompts of a row; bold: the choice"
    note += "; framed: the right prompt" if len(right) else ""
    return share_table(pictures, prompts, share, out, note, right)


@literal_text
def share_table(
    pictures: Sequence[np.ndarray],
    prompts: Sequence[str],
    share: np.ndarray,
    out: str,
    note: str,
    right: Sequence[int] = (),
    names: Sequence[str] = (),
) -> str:
    """Draws pictures x prompts; colour and percentage are the shares float[P, Q], the largest of a
    row in bold, `note` below. right: as of `similarity_table`; names: of the pictures, beside their
    rows. Returns the path of the PNG.
    """
    labels = [wrapped(prompt, 26, 2) for prompt in prompts]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    slant = 0.06 * longest + 0.15  # inches that a label of 8.5 pt at 45 degrees rises, and leans
    rows, columns = share.shape
    said = [printable(name, 40) for name in names]
    beside = 0.075 * max(map(len, said), default=0)  # inches that the longest name takes
    width = max(LEFT + CELL * columns + max(slant, beside + 0.2), 5.2, 0.3 + 0.065 * len(note))
    height = BOTTOM + CELL * rows + slant + 0.75
    figure = new_figure(width, height)
    place = (LEFT / width, BOTTOM / height, CELL * columns / width, CELL * rows / height)
    axes = figure.add_axes(place)
    _draw_cells(axes, share, right)
    axes.set_xticks(np.arange(columns), labels, rotation=45, ha="left", rotation_mode="anchor")
    if said:
        axes.set_yticks(np.arange(rows), said)
        axes.tick_params(axis="y", labelright=True, labelleft=False)
    side = CELL - 0.08
    for i, picture in enumerate(pictures):
        y = BOTTOM + CELL * (rows - 1 - i) + 0.04
        header = figure.add_axes((0.15 / width, y / height, side / width, side / height))
        show_picture(header, picture)
    title = "Which prompt does each picture choose?"
    figure.text(0.15 / width, 1 - 0.3 / height, title, fontsize=12, weight="bold")
    figure.text(0.15 / width, 0.3 / height, note, fontsize=8.5)
    return save(figure, out)


def _draw_cells(axes: Any, share: np.ndarray, right: Sequence[int]) -> None:
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    rows, columns = share.shape
    axes.set_yticks([])
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5, clip_on=False)
    axes.tick_params(which="both", length=0, labelsize=8.5)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(share):
        style = {
            "color": "white" if value > 0.55 else "#222222",
            "weight": "bold" if value == share[i].max() else "normal",
        }
        axes.text(j, i, f"{value:.0%}", ha="center", va="center", fontsize=9, **style)
    for i, j in enumerate(right):
        box = Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=RED, linewidth=1.8)
        axes.add_patch(box)

"""The contact sheet of a retrieval result: what was asked, what was found, best and worst.

The file exists because a recall says how often a model is wrong, and only the pictures say how.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.data.decode import decode_image
from vlp_jax.data.source import Source
from vlp_jax.report.canvas import BLUE, GREEN, literal_text, new_figure, save, show_picture, wrapped

HEADINGS = {
    "best": "Best: lowest rank, then largest margin",
    "worst": "Worst: highest rank, then smallest margin",
}


def load_pictures(source: Source, rows: Sequence[int], size: int = 96) -> dict[int, np.ndarray]:
    """Thumbnails {row: uint8[size, size, 3]} of some samples, whole (padded, not cropped)."""
    return {int(row): decode_image(source[int(row)]["image"], size, "pad", None) for row in rows}


@literal_text
def contact_sheet(
    entries: Mapping[str, Sequence[Mapping[str, Any]]],
    pictures: Mapping[int, np.ndarray],
    out: str,
    title: str = "Best and worst retrievals",
) -> str:
    """Queries and what was found for them; right answers have a green frame and a tick.

    entries: {'best': [...], 'worst': [...]} of a retrieval result's 'i2t' or 't2i'. pictures: row
    -> uint8[S, S, 3] for every picture that they name (`rows_in`). Returns the path of the PNG.
    """
    blocks = [(name, list(found)) for name, found in entries.items() if found]
    count = max((len(e["found"]) for _, found in blocks for e in found), default=1)
    cell, text_column, head = 1.15, 3.0, 0.45
    height = 0.6 + sum(head + cell * len(found) for _, found in blocks) + 0.15
    is_captions = any("image" in e for _, found in blocks for e in found)
    width = 0.2 + text_column + (1.3 + 3.2 if is_captions else cell * (count + 1) + 0.4)
    figure = new_figure(width, height)
    figure.text(0.15 / width, 1 - 0.33 / height, title, fontsize=13, weight="bold", va="center")
    y = height - 0.6
    for name, found in blocks:
        heading = HEADINGS.get(name, name)
        figure.text(
            0.15 / width, (y - head / 2) / height, heading, fontsize=11, va="center", color=BLUE
        )
        y -= head
        for entry in found:
            y -= cell
            draw = _caption_row if "image" in entry else _picture_row
            draw(_Row(figure, width, height, y, cell), entry, pictures)
    return save(figure, out)


def rows_in(entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[int]:
    """The picture rows that a contact sheet of these entries draws."""
    rows: set[int] = set()
    for entry in (e for found in entries.values() for e in found):
        rows |= {entry["image"]} if "image" in entry else {*entry["found"], *entry["right"]}
    return sorted(rows)


class _Row:
    """One line of the sheet: places pictures and words by inches from the left."""

    def __init__(self, figure: Any, width: float, height: float, y: float, cell: float) -> None:
        self.figure, self.width, self.height, self.y, self.cell = figure, width, height, y, cell

    def picture(self, x: float, picture: np.ndarray, frame: str, caption: str = "") -> None:
        side = self.cell - 0.3
        place = (
            x / self.width,
            (self.y + 0.22) / self.height,
            side / self.width,
            side / self.height,
        )
        show_picture(
            self.figure.add_axes(place), picture, frame, 1.0 if frame == "#CCCCCC" else 2.6
        )
        middle = (x + side / 2) / self.width
        self.figure.text(
            middle, (self.y + 0.1) / self.height, caption, fontsize=7.5, ha="center", va="center"
        )

    def words(self, x: float, rise: float, text: str, **style: Any) -> None:
        y = (self.y + self.cell * rise) / self.height
        self.figure.text(x / self.width, y, text, **({"fontsize": 8.5, "va": "center"} | style))


def _caption_row(row: _Row, entry: Mapping[str, Any], pictures: Mapping[int, np.ndarray]) -> None:
    """Picture, its right captions and rank, then the captions that were found with their
    cosines."""
    row.picture(0.2, pictures[entry["image"]], "#CCCCCC")
    row.words(1.35, 0.82, f"rank {entry['rank']:,} of {entry['of']:,}", weight="bold")
    row.words(1.35, 0.45, wrapped(" / ".join(entry["right"]), 34, 4), color=GREEN)
    found = list(zip(entry["found"], entry["hits"], entry["scores"], strict=True))[:5]
    for i, (text, hit, score) in enumerate(found):
        style = {"color": GREEN, "weight": "bold"} if hit else {"color": "#333333"}
        mark = "✓" if hit else "✗"
        row.words(
            4.05,
            0.86 - 0.17 * i,
            f"{mark} {score:.2f}  {wrapped(text, 46, 1)}",
            fontsize=8,
            **style,
        )


def _picture_row(row: _Row, entry: Mapping[str, Any], pictures: Mapping[int, np.ndarray]) -> None:
    """Caption and rank, the right picture, then the pictures that were found with their cosines."""
    row.words(0.2, 0.82, f"rank {entry['rank']:,} of {entry['of']:,}", weight="bold")
    row.words(0.2, 0.45, wrapped(entry["text"], 38, 4))
    row.picture(3.1, pictures[entry["right"][0]], GREEN, "wanted")
    for i, found in enumerate(entry["found"]):
        frame = GREEN if entry["hits"][i] else "#CCCCCC"
        mark = "✓ " if entry["hits"][i] else ""
        row.picture(
            3.5 + row.cell * (i + 1), pictures[found], frame, f"{mark}{entry['scores'][i]:.2f}"
        )

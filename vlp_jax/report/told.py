"""What a model says of pictures: each beside its words and those of people, best and worst.

The file exists because a score of captions says little until some of them are read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    literal_text,
    new_figure,
    save,
    show_picture,
    wrapped,
)

HEADINGS = {"best": "Best: highest score", "worst": "Worst: lowest score"}
CELL, HEAD, WIDTH = 1.3, 0.45, 7.6  # inches
_LINE = 0.16  # of a line of text

Groups = Mapping[str, Sequence[Mapping[str, Any]]]


def shown_rows(groups: Groups) -> list[int]:
    """The picture rows that a sheet of these entries draws."""
    return sorted({int(entry["image"]) for entries in groups.values() for entry in entries})


@literal_text
def told_sheet(groups: Groups, pictures: Mapping[int, np.ndarray], out: str, title: str) -> str:
    """Draws entries {image, score, said, right[, asked, against]}, or {image, lines [(text,
    style)]}, one below the other.

    groups: {'best': [...], 'worst': [...]}. pictures: row -> uint8[S, S, 3] of every `image`.
    Returns the path of the PNG.
    """
    blocks = {name: entries for name, entries in groups.items() if entries}
    height = 0.75 + sum(HEAD + CELL * len(entries) for entries in blocks.values())
    figure = new_figure(WIDTH, height)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / WIDTH, y / height, text, va="top", **{"fontsize": 8.5, **style})

    write(0.15, height - 0.2, title, fontsize=13, weight="bold")
    y = height - 0.6
    for name, entries in blocks.items():
        write(0.15, y - 0.12, HEADINGS.get(name, name), fontsize=11, color=BLUE)
        y -= HEAD
        for entry in entries:
            side = CELL - 0.15
            place = (0.15 / WIDTH, (y - side) / height, side / WIDTH, side / height)
            show_picture(figure.add_axes(place), pictures[int(entry["image"])])
            at = y - 0.02
            for text, style in _lines(entry):
                write(CELL + 0.2, at, text, **style)
                at -= _LINE * (text.count("\n") + 1) + 0.05
            y -= CELL
    return save(figure, out)


def _lines(entry: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What stands beside a picture, from above: the question, what the model says, what people
    say, what is wrong."""
    if "lines" in entry:
        return entry["lines"]
    said = f"{entry['score']:.2f}  {entry['said'] or '(nothing)'}"
    people = "\n".join(wrapped(text, 88, 1) for text in entry["right"][:3])
    asked = [(wrapped(entry["asked"], 88, 1), {})] if "asked" in entry else []
    lines = [*asked, (wrapped(said, 80, 2), {"weight": "bold"}), (people, {"color": GREEN})]
    wrong = [f"not: {text}" for text in entry.get("against", ())]
    return lines + [(wrapped(text, 88, 1), {"color": GREY}) for text in wrong]

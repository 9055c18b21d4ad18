"""What a search found: the query, then pictures in their order with score and caption.

The file exists because a list of names does not show whether a search works.
"""

from collections.abc import Sequence

import numpy as np

from vlp_jax.report.canvas import literal_text, new_figure, save, show_picture, wrapped

COLUMNS, CELL, LINES = 5, 1.5, 0.45  # inches of a picture and of the words below it


@literal_text
def found_sheet(
    pictures: Sequence[np.ndarray | None],
    captions: Sequence[str],
    scores: Sequence[float],
    out: str,
    title: str,
) -> str:
    """Draws pictures uint8[S, S, 3] (None: an empty frame), best first; returns the path of the
    PNG.
    """
    rows = max(1, -(-len(pictures) // COLUMNS))
    width, height = COLUMNS * (CELL + 0.15) + 0.15, 0.55 + rows * (CELL + LINES)
    figure = new_figure(width, height)
    heading = wrapped(title, 80, 1) if pictures else f"{wrapped(title, 60, 1)}: nothing found"
    figure.text(0.15 / width, 1 - 0.27 / height, heading, fontsize=12, weight="bold", va="center")
    cells = zip(pictures, captions, scores, strict=True)
    for number, (picture, caption, score) in enumerate(cells):
        x = 0.15 + number % COLUMNS * (CELL + 0.15)
        y = height - 0.55 - (number // COLUMNS) * (CELL + LINES) - CELL
        axes = figure.add_axes((x / width, y / height, CELL / width, CELL / height))
        show_picture(axes, np.full((8, 8, 3), 240, np.uint8) if picture is None else picture)
        words = f"{score:.3f}  {wrapped(caption, 40, 2)}"
        text = "\n".join(wrapped(words, 26, 2).split("\n"))
        figure.text(x / width, (y - 0.05) / height, text, fontsize=7.5, va="top")
    return save(figure, out)

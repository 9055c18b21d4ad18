"""A sheet of panels: one picture a row, its input, output and target side by side.

The file exists because a reconstruction is judged by eye before it is judged by a number.
"""

from collections.abc import Sequence

import numpy as np

from vlp_jax.report.canvas import literal_text, new_figure, save, show_picture


@literal_text
def panel_sheet(panels: np.ndarray, titles: Sequence[str], out: str, title: str) -> str:
    """Draws panels float32[N, P, H, W, 3] in [0, 1]: N rows of P pictures under their titles.

    Returns the path of the PNG.
    """
    rows, columns = panels.shape[:2]
    cell, left, head = 1.15, 0.15, 0.85
    width, height = max(2 * left + cell * columns, 4.0), head + cell * rows + 0.1
    figure = new_figure(width, height)
    figure.text(left / width, 1 - 0.28 / height, title, fontsize=12, weight="bold", va="center")
    for column, name in enumerate(titles):
        x, y = left + cell * (column + 0.47), height - head + 0.14
        figure.text(x / width, y / height, name, fontsize=8, ha="center", va="center")
    pixels = np.uint8(np.round(panels * 255))
    side = cell - 0.07
    for row in range(rows):
        for column in range(columns):
            x, y = left + cell * column, height - head - cell * (row + 1) + 0.07
            place = (x / width, y / height, side / width, side / height)
            show_picture(figure.add_axes(place), pixels[row, column])
    return save(figure, out)

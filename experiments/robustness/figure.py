"""The study's figure: a row for each rendering with an example, a column for each model.

The file exists because the bars of report/study.py cannot show what a rendering looks like.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.robustness import render
from vlp_jax.data.open import open_source
from vlp_jax.report.canvas import BLUE, literal_text, new_figure, printable, save, show_picture

EXAMPLE = "banana"
ROW, LEFT, PANEL = 0.72, 2.3, 2.1  # inches: a row's height, the words and examples, a model


def example(folder: Path, name: str) -> np.ndarray:
    """uint8[64, 64, 3]: the example in a rendering."""
    source = open_source(render.set_path(folder, name))
    labels = [source.metadata(i)["meta"]["label"] for i in range(len(source))]
    return render.decoded(source[labels.index(EXAMPLE)]["image"])


@literal_text
def draw(title: str, cells: Mapping[str, Mapping[str, Any]], out: str, folder: Path) -> str:
    """Bars of `ours` with the seeds' spread; folder: of the rendered sets. Returns the PNG."""
    width, height = LEFT + PANEL * len(cells) + 0.1, 0.9 + ROW * len(render.NAMES)
    figure = new_figure(width, height)
    figure.text(0.1 / width, 1 - 0.25 / height, title, fontsize=11, va="center", weight="bold")
    bottom = lambda row: height - 0.8 - ROW * (row + 1)  # noqa: E731
    for row, name in enumerate(render.NAMES):
        y, side = bottom(row), ROW - 0.08
        place = ((LEFT - side - 0.1) / width, (y + 0.04) / height, side / width, side / height)
        show_picture(figure.add_axes(place), example(folder, name))
        middle = (y + ROW / 2) / height
        figure.text(0.1 / width, middle, name, fontsize=9.5, va="center")
    for column, (name, cell) in enumerate(cells.items()):
        left = (LEFT + PANEL * column) / width
        whole = (left, bottom(len(render.NAMES) - 1) / height, (PANEL - 0.15) / width)
        axes = figure.add_axes((*whole, ROW * len(render.NAMES) / height))
        _bars(axes, cell)
        axes.set_title(printable(name, 40), fontsize=9.5, loc="left")
    return save(figure, out)


def _bars(axes: Any, cell: Mapping[str, Any]) -> None:
    values = [cell["ours"].get(name, np.nan) for name in render.NAMES]
    spread = [cell["spread"].get(name, 0.0) for name in render.NAMES]
    place = np.arange(len(values))
    axes.barh(place, np.nan_to_num(values), height=0.5, xerr=spread, color=BLUE)
    for y, value, error in zip(place, values, spread, strict=True):
        if np.isfinite(value):
            shown = f" {value:.1f}" + (f" ± {error:.1f}" if error else "")
            axes.text(value + error, y, shown, fontsize=8.5, va="center")
    axes.set(xlim=(0, 150), ylim=(len(values) - 0.5, -0.5), xticks=[], yticks=[])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)

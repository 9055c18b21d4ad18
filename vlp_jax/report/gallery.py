"""All pictures of a report from its results: each kind of figure is drawn in its own way.

The file exists so that the command line and the quickstart draw the same pictures, and evaluators
none.
"""

import os
from collections.abc import Iterable, Mapping

import numpy as np

from vlp_jax.evals.base import Result
from vlp_jax.evals.kits.figures import (
    Bars,
    Curves,
    Figure,
    Grid,
    HeatMap,
    Panels,
    Pictures,
    Queries,
    Space,
    Told,
)
from vlp_jax.report.contact import contact_sheet, load_pictures, rows_in
from vlp_jax.report.curves import curve_sheet
from vlp_jax.report.heatmap import similarity_table
from vlp_jax.report.plots import per_class, shared_space, training_curve
from vlp_jax.report.sheet import panel_sheet
from vlp_jax.report.told import shown_rows, told_sheet


def draw_results(
    results: Mapping[str, Result], folder: str, scale: float = 100.0, metrics: str = ""
) -> dict[str, str]:
    """Draws what the results hold; returns {caption: path of the PNG}, in reading order.

    scale: exp(logit_scale) of the model, for the softmax of the heat map. metrics: path of
    metrics.jsonl ('' = no training curve); evaluation metrics logged there as `NAME/i2t_r1`,
    `NAME/top1` are drawn below the loss.
    """
    drawn = {}
    if metrics:
        evals = [f"{name}/{key}" for name in results for key in ("i2t_r1", "t2i_r1", "top1")]
        path = os.path.join(folder, "training_curve.png")
        drawn["Training"] = training_curve(metrics, path, evals)
    for name, result in results.items():
        stem = os.path.join(folder, name.replace("/", "_"))
        for key, figure in result.figures.items():
            out = draw(figure, f"{stem}_{key}.png", name, scale)
            drawn[f"{name}{figure.caption}"] = out
    return drawn


def draw(figure: Figure, out: str, name: str, scale: float = 100.0) -> str:
    """Draws a figure by its kind; returns the path of the PNG.

    name: of the evaluator, for titles. scale: see `draw_results`.
    """
    caption = f"{name}{figure.caption}"
    match figure:
        case HeatMap(_, pictures, texts, cosine, right):
            shown = list(thumbnails(pictures, range(len(cosine))).values())
            return similarity_table(shown, texts, cosine, out, scale, right)
        case Space(_, image, text, labels, pictures):
            thumbnail = lambda i: thumbnails(pictures, [i])[i]  # noqa: E731
            return shared_space(image, text, out, labels, thumbnail=thumbnail)
        case Queries(_, groups, pictures):
            return contact_sheet(groups, thumbnails(pictures, rows_in(groups)), out, caption)
        case Told(_, groups, pictures):
            return told_sheet(groups, thumbnails(pictures, shown_rows(groups)), out, caption)
        case Panels(_, panels, titles):
            return panel_sheet(panels, titles, out, name)
        case Grid(_, rows, pictures, titles):
            shown = thumbnails(pictures, np.unique(rows))
            panels = np.stack([[shown[i] for i in row] for row in rows.tolist()])
            return panel_sheet(panels / 255, titles, out, caption)
        case Curves(_, axis, x, lines):
            return curve_sheet(x, lines, axis, out, caption)
        case Bars(_, table, key):
            return per_class(table, out, key)
    raise TypeError(f"no way to draw a {type(figure).__name__}")


def thumbnails(pictures: Pictures, rows: Iterable[int]) -> dict[int, np.ndarray]:
    """Some pictures by their row: {row: uint8[S, S, 3]}."""
    rows = [int(row) for row in rows]
    found = load_pictures(pictures.source, pictures.samples[rows] if rows else [])
    return dict(zip(rows, found.values(), strict=True))

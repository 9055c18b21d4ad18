"""All pictures of a report from its results: which result can be drawn how.

The file exists so that the command line and the quickstart draw the same pictures, and evaluators
none.
"""

import os
from collections.abc import Mapping

import numpy as np

from vlp_jax.evals.base import Result
from vlp_jax.report.contact import contact_sheet, load_pictures, rows_in
from vlp_jax.report.heatmap import similarity_table
from vlp_jax.report.plots import per_class, shared_space, training_curve
from vlp_jax.report.sheet import panel_sheet

WAYS = {"i2t": "image to text", "t2i": "text to image"}


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
        if "pairs" in result.details:
            drawn |= draw_retrieval(result, name, stem, scale)
        if "panels" in result.details:
            panels, titles = result.details["panels"], result.details["titles"]
            drawn[f"{name}: answers"] = panel_sheet(panels, titles, f"{stem}_panels.png", name)
        if "neighbours" in result.details:
            caption = f"{name}: pictures and those nearest to them"
            drawn[caption] = draw_neighbours(result, f"{stem}_neighbours.png", caption)
        for row in result.tables.get("per_class", [])[:1]:
            key = "recall" if "recall" in row else "ap"
            path = f"{stem}_per_class.png"
            drawn[f"{name}: per class"] = per_class(result.tables["per_class"], path, key)
    return drawn


def draw_retrieval(result: Result, name: str, stem: str, scale: float) -> dict[str, str]:
    """Heat map, shared space and the two contact sheets of a retrieval result."""
    details, pairs = result.details, result.details["pairs"]
    first = np.unique(pairs.owner, return_index=True)[1]  # first caption of each picture
    text_of = pairs.text_of[first]
    drawn = {}
    few = evenly(pairs.num_images, 10)
    texts = list(dict.fromkeys(text_of[few].tolist()))
    drawn[f"{name}: pictures against prompts"] = similarity_table(
        list(_load(result, few).values()),
        [pairs.texts[u] for u in texts],
        details["image"][few] @ details["text"][texts].T,
        f"{stem}_similarity.png",
        scale,
        [texts.index(u) for u in text_of[few].tolist()],
    )
    some = evenly(pairs.num_images, 250)
    drawn[f"{name}: the shared space"] = shared_space(
        details["image"][some],
        details["text"][text_of[some]],
        f"{stem}_space.png",
        [pairs.texts[u] for u in text_of[some]],
        thumbnail=lambda i: _load(result, some[[i]])[int(some[i])],
    )
    for way, title in WAYS.items():
        entries = details[way]
        caption = f"{name}, {title}: best and worst"
        pictures = _load(result, rows_in(entries))
        drawn[caption] = contact_sheet(entries, pictures, f"{stem}_{way}.png", caption)
    return drawn


def draw_neighbours(result: Result, out: str, title: str) -> str:
    """A row for each picture, the nearest first; returns the path of the PNG."""
    rows = result.details["neighbours"]
    pictures = _load(result, np.unique(rows))
    panels = np.stack([[pictures[i] for i in row] for row in rows.tolist()])
    titles = ("picture", "nearest", *map(str, range(2, rows.shape[1])))
    return panel_sheet(panels / 255, titles, out, title)


def evenly(total: int, count: int) -> np.ndarray:
    """At most `count` row numbers, evenly spaced: int[min(total, count)]."""
    count = min(total, count)
    return np.arange(count) * total // max(count, 1)


def _load(result: Result, rows: list[int] | np.ndarray) -> dict[int, np.ndarray]:
    """Pictures by their row among those that were embedded."""
    kept = result.details["kept"]
    found = load_pictures(result.details["source"], kept[rows] if len(rows) else [])
    return dict(zip(map(int, rows), found.values(), strict=True))

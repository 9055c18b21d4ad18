"""Curves and maps of a run: training curve, the shared space, the per-class bars.

The file exists because people look before they read: each picture's title states what is seen in
it.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.transforms import Bbox

from vlp_jax.core.errors import UserError, count_of
from vlp_jax.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    literal_text,
    new_figure,
    plain_axes,
    printable,
    save,
)

# What is logged of any run (train/step.py, train/loop.py); the rest are the method's own numbers.
OF_ANY_RUN = ("step", "loss", "lr", "grad_norm", "skipped", "skipped_in_row", "epoch", "dropped")
OF_ANY_RUN += ("examples_per_s", "step_seconds", "data_wait", "mfu", "time")
ACROSS = 4  # small panels


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl in order of step; a torn last line (a killed run) is left out.

    After a resume the later of two lines of one step counts. Raises UserError when there is no such
    file.
    """
    if not os.path.isfile(path):
        raise UserError(f"no metrics at {path}")
    rows: dict[Any, dict[str, Any]] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and "step" in row:
                rows[row["step"]] = rows.get(row["step"], {}) | row
    return [rows[step] for step in sorted(rows)]


def smooth(values: np.ndarray, span: int) -> np.ndarray:
    """Mean over a centred window of 2 * span + 1 values, cut at the ends: no lag. float[N] ->
    float[N]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - span, 0), np.minimum(place + span + 1, len(values))
    return (total[last] - total[first]) / (last - first)


@literal_text
def training_curve(metrics: str, out: str, evals: Sequence[str] = ()) -> str:
    """Loss over steps, raw and smoothed, below it the evaluation metrics named in `evals`, and the
    method's own numbers (its loss terms, how often it is right) in small panels.

    metrics: path of metrics.jsonl. Returns the path of the PNG.
    """
    rows = read_metrics(metrics)
    shown = [name for name in evals if any(name in row for row in rows)]
    own = dict.fromkeys(key for row in rows for key in row if "/" not in key)
    own = [name for name in own if name not in OF_ANY_RUN and len(_series(rows, name)[0])]
    heights = [4.0, *[2.4] * bool(shown), *[1.3] * -(-len(own) // ACROSS)]
    figure = new_figure(8, sum(heights))
    grid = figure.add_gridspec(len(heights), ACROSS, height_ratios=heights)
    first = figure.add_subplot(grid[0, :])
    curve, steps = _draw_series(first, rows, "loss", 2)
    if len(curve):
        how = dict(textcoords="offset points", va="center")
        first.annotate(f"{curve[-1]:.3g}", (steps[-1], curve[-1]), (5, 0), **how)
        title = f"Training loss from {curve[0]:.3g} to {curve[-1]:.3g} in {steps[-1]:,.0f} steps"
        first.set_title(title, loc="left", fontweight="bold")
    first.set_ylabel("loss")
    if shown:
        _draw_evals(figure.add_subplot(grid[1, :], sharex=first), rows, shown)
    for place, name in enumerate(own):
        row, column = divmod(place, ACROSS)
        axes = figure.add_subplot(grid[row + 1 + bool(shown), column], sharex=first)
        last = _draw_series(axes, rows, name, 1)[0][-1]
        axes.set_title(f"{printable(name, 24)}  {last:.3g}", loc="left", fontsize=8)
        axes.tick_params(labelsize=7, labelbottom=False)
    for each in figure.axes:
        plain_axes(each)
    figure.axes[bool(shown)].set_xlabel("step")
    figure.tight_layout()
    return save(figure, out)


def _draw_series(
    axes: Any, rows: list[dict[str, Any]], name: str, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """A logged number, raw and smoothed; returns (smoothed, its steps)."""
    step, value = _series(rows, name)
    curve = smooth(value, len(value) // 50)
    if len(curve):
        axes.plot(step, value, color=BLUE, alpha=0.25, linewidth=width / 2)
        axes.plot(step, curve, color=BLUE, linewidth=width)
    return curve, step


def _draw_evals(axes: Any, rows: list[dict[str, Any]], names: Sequence[str]) -> None:
    styles = zip((BLUE, ORANGE, GREEN, RED, GREY), "os^Dv", strict=True)
    for name, (color, marker) in zip(names, styles, strict=False):
        step, value = _series(rows, name)
        axes.plot(step, value, color=color, marker=marker, markersize=4, label=printable(name, 40))
    axes.set_ylim(bottom=0)
    axes.set_title("Evaluation during training", loc="left", fontweight="bold")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["step"], row[name]) for row in rows if _is_number(row.get(name))]
    return np.asarray([s for s, _ in found]), np.asarray([v for _, v in found], float)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and np.isfinite(value)


def principal_plane(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates float[N, 2] on the two main axes of the centred rows, and their shares of the
    variance.

    Each axis points to where its largest coordinate is positive, so that the picture is
    reproducible.
    """
    centred = rows.astype(np.float64) - rows.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    plane = left[:, :2] * singular[:2]
    plane *= np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    return plane, singular[:2] ** 2 / max(np.sum(singular**2), 1e-12)


FEW = 20  # pairs of which every label and every thumbnail is shown
SIDE = 30  # points, of a thumbnail
SHIFTS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))
# Where a label may stand beside its point: offset in points, how it is aligned.
PLACES = (
    *((6, 5, "left", "bottom"), (-6, 5, "right", "bottom")),
    *((6, -5, "left", "top"), (-6, -5, "right", "top")),
    *((0, 8, "center", "bottom"), (0, -8, "center", "top")),
)


@literal_text
def shared_space(
    image: np.ndarray,
    text: np.ndarray,
    out: str,
    labels: Sequence[str] = (),
    named: int = 12,
    thumbnail: Callable[[int], np.ndarray] | None = None,
) -> str:
    """PCA of both modalities together, a line from each picture to its own text.

    image, text: float32[N, D], unit norm, row i of one belongs to row i of the other. labels: N
    texts, written beside their points; thumbnail: row -> uint8[S, S, 3], drawn over the picture's
    point. Of more than FEW pairs `named`, spread over the plane, have both. Returns the path of the
    PNG.
    """
    axes, left, right = _scatter(image, text)
    lines = np.stack([left, right], axis=1)  # [N, 2, 2]
    axes.plot(*lines.transpose(2, 1, 0), color="#BBBBBB", linewidth=0.6, zorder=1)
    cosine = np.sum(image * text, axis=1).mean()
    axes.set_title(
        f"{len(image)} pictures and their texts in the shared space (PCA)\n"
        f"mean cosine of a pair {cosine:.2f}, {_gap(image, text)}",
        loc="left",
        fontsize=11,
    )
    axes.figure.tight_layout()
    if len(labels):
        _Marks(axes).add(left, right, labels, named, thumbnail)
    return save(axes.figure, out)


@literal_text
def joint_space(
    image: np.ndarray,
    text: np.ndarray,
    out: str,
    labels: Mapping[int, str],
    thumbnails: Mapping[int, np.ndarray],
) -> str:
    """PCA of pictures and texts that are no pairs. Returns the path of the PNG.

    image: float32[N, D], text: float32[M, D], unit norm, at least two rows together. labels: of
    some texts by row; thumbnails: of some pictures, uint8[S, S, 3] by row. At most half of
    FEW of each are shown, the outermost.
    """
    axes, left, right = _scatter(image, text)
    first = [i for i in _outermost(left)[0] if i in thumbnails][: FEW // 2]
    named = [j for j in _outermost(right)[0] if j in labels][: FEW // 2]
    sizes = f"{count_of(len(image), 'picture')} and {count_of(len(text), 'text')}"
    some = len(first) < len(image) or len(named) < len(text)
    note = f"; the outermost {len(first)} and {len(named)} have names" if some else ""
    axes.set_title(
        f"{sizes} in the shared space (PCA){note}\n{_gap(image, text)}", loc="left", fontsize=11
    )
    axes.figure.tight_layout()
    shown = {i: thumbnails[i] for i in first}
    _Marks(axes).add_apart(left, right, {j: labels[j] for j in named}, shown)
    return save(axes.figure, out)


def _scatter(image: np.ndarray, text: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """(axes with the points of both, the pictures' float[N, 2], the texts' float[M, 2])."""
    plane, share = principal_plane(np.concatenate([image, text]))
    left, right = plane[: len(image)], plane[len(image) :]
    axes = new_figure(9.5, 7.2).subplots()
    axes.scatter(*left.T, s=26, color=BLUE, label="picture", zorder=2, linewidths=0)
    axes.scatter(*right.T, s=30, color=ORANGE, marker="^", label="text", zorder=3, linewidths=0)
    axes.set_xlabel(f"axis 1, {share[0]:.0%} of the variance")
    axes.set_ylabel(f"axis 2, {share[1]:.0%} of the variance")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    plain_axes(axes)
    axes.margins(x=0.16, y=0.08)
    return axes, left, right


def _gap(image: np.ndarray, text: np.ndarray) -> str:
    gap = np.linalg.norm(image.mean(axis=0) - text.mean(axis=0))
    return f"distance between the two modalities' means {gap:.2f}"


def _outermost(points: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(rows by their distance from the middle, the farthest first; 0 where a label goes to the
    right, 1 to the left).
    """
    middle = points.mean(axis=0)
    order = np.argsort(-np.linalg.norm(points - middle, axis=1), kind="stable").tolist()
    return order, (points[:, 0] <= middle[0]).astype(int)


class _Marks:
    """Labels and thumbnails of a plane, and the boxes that they take."""

    def __init__(self, axes: Any) -> None:
        self.axes, self.renderer = axes, axes.figure.canvas.get_renderer()
        self.taken: list[Any] = []

    def add(
        self,
        pictures: np.ndarray,
        texts: np.ndarray,
        labels: Sequence[str],
        count: int,
        thumbnail: Callable[[int], np.ndarray] | None,
    ) -> None:
        """Marks pairs, the outermost text first: all of few, else `count` of those that overlap
        nothing.
        """
        order, outward = _outermost(texts)
        if len(texts) <= FEW:
            shown = {i: thumbnail(i) for i in order} if thumbnail else {}
            self.add_apart(pictures, texts, dict(enumerate(labels)), shown)
            return
        for i in order:
            pair = [self._words(texts[i], labels[i], PLACES[outward[i]])]
            pair += [self._picture(pictures[i], thumbnail(i))] if thumbnail else []
            count -= self._free(pair)
            if not count:
                break

    def add_apart(
        self,
        pictures: np.ndarray,
        texts: np.ndarray,
        labels: Mapping[int, str],
        thumbnails: Mapping[int, np.ndarray],
    ) -> None:
        """Marks every thumbnail, in their order, and every label, the outermost first, where it
        covers least; both by row.
        """
        self._reserve(texts)
        for i, picture in thumbnails.items():
            self._best([self._picture(pictures[i], picture, shift) for shift in SHIFTS])
        order, outward = _outermost(texts)
        for i in order:
            if i in labels:
                first = lambda place, i=i: PLACES.index(place) % 2 != outward[i]  # noqa: E731
                places = sorted(PLACES, key=first)
                self._best([self._words(texts[i], labels[i], place) for place in places])

    def _reserve(self, points: np.ndarray) -> None:
        """Labels and thumbnails keep off these points."""
        places = self.axes.transData.transform(points)
        self.taken += [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in places]

    def _best(self, marks: Sequence[Any]) -> None:
        """Keeps the mark that covers least, the first of equals."""
        best = min(marks, key=self._clashes)
        for mark in marks:
            if mark is not best:
                mark.remove()
        self.taken.append(self._box(best))

    def _free(self, marks: Sequence[Any]) -> bool:
        """Keeps marks where they cover nothing, neither one another; else removes them all."""
        boxes = [self._box(mark) for mark in marks]
        is_free = not any(map(self._clashes, marks)) and not boxes[0].count_overlaps(boxes[1:])
        if is_free:
            self.taken += boxes
        else:
            for mark in marks:
                mark.remove()
        return is_free

    def _words(self, point: np.ndarray, label: str, place: tuple[int, int, str, str]) -> Any:
        x, y, across, up = place
        how = dict(textcoords="offset points", ha=across, va=up, fontsize=8, color="#333333")
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
        return self.axes.annotate(printable(label, 28), point, (x, y), bbox=box, zorder=5, **how)

    def _picture(
        self, point: np.ndarray, picture: np.ndarray, shift: tuple[int, int] = (0, 0)
    ) -> Any:
        image = OffsetImage(picture, zoom=SIDE / len(picture))
        away = tuple(1.3 * SIDE * step for step in shift)
        how = dict(pad=0.1, bboxprops={"edgecolor": BLUE, "linewidth": 1}, zorder=4)
        line = {"arrowstyle": "-", "color": BLUE} if any(shift) else None
        box = AnnotationBbox(image, point, away, boxcoords="offset points", arrowprops=line, **how)
        return self.axes.add_artist(box)

    def _box(self, mark: Any) -> Any:
        part = mark.patch if isinstance(mark, AnnotationBbox) else mark  # without its line
        if part is not mark:
            mark.update_positions(self.renderer)
        return part.get_window_extent(self.renderer).padded(3)

    def _clashes(self, mark: Any) -> float:
        """Pixels of other marks that it covers; infinite where it leaves the frame."""
        box, frame = self._box(mark), self.axes.bbox
        if not (frame.x0 <= box.x0 and box.x1 <= frame.x1):
            return np.inf
        if not (frame.y0 <= box.y0 and box.y1 <= frame.y1):
            return np.inf
        shared = (box.intersection(box, other) for other in self.taken)
        return sum(part.width * part.height for part in shared if part is not None)


@literal_text
def per_class(
    rows: Sequence[Mapping[str, Any]], out: str, key: str = "recall", shown: int = 40
) -> str:
    """Horizontal bars of a per-class table, sorted; of more than `shown` classes the best and worst
    halves.

    rows: dicts with 'class', 'images' and `key` (a fraction). Returns the path of the PNG.
    """
    order = sorted(rows, key=lambda row: (-row[key], str(row["class"])))
    cut = len(order) > shown
    chosen = [*order[: shown // 2], *order[-(shown // 2) :]] if cut else order
    figure = new_figure(8.5, 1.4 + 0.24 * len(chosen))
    axes = figure.subplots()
    values = [row[key] for row in chosen]
    place = np.arange(len(chosen)) + (np.arange(len(chosen)) >= shown // 2 if cut else 0)
    axes.barh(place, values, color=BLUE, height=0.72)
    names = [f"{printable(row['class'], 34)} ({row['images']})" for row in chosen]
    axes.set_yticks(place, names, fontsize=8)
    for y, value in zip(place, values, strict=True):
        label = axes.text(value + 0.008, y, f"{value:.0%}", va="center", fontsize=8)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
    mean = float(np.mean([row[key] for row in rows]))
    axes.axvline(mean, color=ORANGE, linewidth=1.5, linestyle="--")
    which = (
        f"best and worst {shown // 2} of {len(order)} classes" if cut else f"{len(order)} classes"
    )
    axes.set_title(f"{key.capitalize()} per class: {which}, mean {mean:.1%}", loc="left")
    axes.set(
        xlim=(0, 1.08), ylim=(place[-1] + 0.7, -0.7), xlabel=f"{key} (dashed: mean over classes)"
    )
    plain_axes(axes)
    axes.grid(False, axis="y")
    figure.tight_layout()
    return save(figure, out)

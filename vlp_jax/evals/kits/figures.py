"""Figures as data: what there is to see in a result. report/ draws each kind.

The file exists so that evaluators draw nothing and the report knows no evaluator.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.data.source import Source


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of a data set by row, read only when they are drawn.

    Attributes:
      source: the data set.
      samples: int[N], the sample of each row.
    """

    source: Source
    samples: np.ndarray

    def at(self, rows: Any) -> "Pictures":
        """Some of them, numbered anew; rows: int[M]."""
        return Pictures(self.source, self.samples[rows])


@dataclasses.dataclass(frozen=True)
class Figure:
    """A kind of figure.

    Attributes:
      caption: what it shows, to follow the evaluator's name.
    """

    caption: str


@dataclasses.dataclass(frozen=True)
class HeatMap(Figure):
    """Pictures against texts.

    Attributes:
      pictures: P rows; texts: Q.
      cosine: float32[P, Q].
      right: the right text of each picture.
    """

    pictures: Pictures
    texts: Sequence[str]
    cosine: np.ndarray
    right: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Space(Figure):
    """Pictures and texts in one space.

    Attributes:
      image, text: float32[N, D], unit norm; row i of one belongs to row i of the other.
      labels: the N texts; pictures: the N pictures.
    """

    image: np.ndarray
    text: np.ndarray
    labels: Sequence[str]
    pictures: Pictures


@dataclasses.dataclass(frozen=True)
class Queries(Figure):
    """What was asked, what was found and what would have been right.

    Attributes:
      groups: {name: queries}; a query holds rank, of (candidates), found, hits, scores, right, and
        what it is: `image`, a row of the pictures, to which texts are found; or `text`, to which
        rows of the pictures are.
    """

    groups: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Pictures


@dataclasses.dataclass(frozen=True)
class Panels(Figure):
    """Rows of pictures that a model made.

    Attributes:
      panels: float32[N, P, H, W, 3] in [0, 1].
      titles: of the P columns, or none.
    """

    panels: np.ndarray
    titles: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Grid(Figure):
    """Rows of pictures of a data set.

    Attributes:
      rows: int[N, P], rows of the pictures.
      titles: of the P columns.
    """

    rows: np.ndarray
    pictures: Pictures
    titles: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Told(Figure):
    """What a model said of pictures beside what people say.

    Attributes:
      groups: {name: entries}; an entry holds `image`, a row of the pictures, `score`, `said`,
        `right`, the texts of people, and may hold what was `asked`, and wrong texts that were to
        choose from, `against`.
    """

    groups: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Pictures


@dataclasses.dataclass(frozen=True)
class Bars(Figure):
    """A number for each class.

    Attributes:
      table: rows with `class`, `images` and `key`.
      key: the number, a fraction.
    """

    table: Sequence[Mapping[str, Any]]
    key: str


@dataclasses.dataclass(frozen=True)
class Curves(Figure):
    """Numbers that follow another.

    Attributes:
      axis: what x is.
      x: float[N].
      lines: {name: N numbers}, each on a scale of its own.
    """

    axis: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]


def per_class(table: Sequence[Mapping[str, Any]]) -> dict[str, Bars]:
    """The figure of a per-class table by recall or average precision; none of an empty one."""
    if not table:
        return {}
    key = "recall" if "recall" in table[0] else "ap"
    return {"per_class": Bars(": per class", table, key)}


def evenly(total: int, count: int) -> np.ndarray:
    """At most `count` row numbers, evenly spaced: int[min(total, count)]."""
    count = min(total, count)
    return np.arange(count) * total // max(count, 1)


def extremes(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the highest scores, best first, and of the lowest, worst first; none in both; scores:
    float[N]."""
    order = np.argsort(-scores, kind="stable")
    best = order[:count]
    return best, order[len(best) :][::-1][:count]

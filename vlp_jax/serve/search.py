"""Asks an index: texts, pictures and vectors to rows, best first.

The file exists as the one search that the command, the service and a notebook share.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.model import Model
from vlp_jax.core.errors import UserError
from vlp_jax.serve.index import Index
from vlp_jax.serve.vectors import unit_rows


class Hit(NamedTuple):
    """A row that was found: its number and the cosine to the query."""

    id: int
    score: float


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked of the rows.

    Attributes:
      modality: 'image' or 'text', the vectors that are searched.
      deduplicate: of near duplicates (cosine above `alike`, also through others) only the best.
      safe: leave out what a classifier on the vectors calls unsafe.
      where: conditions on the metadata (metadata.py), fulfilled by all that is found.
    """

    modality: str = "image"
    deduplicate: bool = False
    safe: bool = False
    where: tuple[str, ...] = ()
    alike: float = 0.94


class Searcher:
    """Searches an index; model: encodes texts and pictures, and must be the one of the index."""

    def __init__(self, index: Index, model: Model | None = None):
        self.index, self.model = index, model

    def encode(self, texts: Sequence[str] = (), pictures: Sequence[Any] = ()) -> np.ndarray:
        """float32[n, E] of unit norm: the texts, then the pictures.

        Raises:
          UserError: there is no model, it has no such tower, or a picture cannot be read.
        """
        if self.model is None:
            raise UserError("no model to embed a query with: give --checkpoint=DIR")
        rows = [np.zeros((0, self.index.width), np.float32)]
        rows += [self.model.embed_texts(list(texts))] if len(texts) else []
        rows += [self.model.embed_images(list(pictures))] if len(pictures) else []
        return np.concatenate(rows)

    def search(
        self, queries: np.ndarray, k: int, modality: str = "image"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(ids int64[Q, k], -1 where there is none; scores float32[Q, k], products of the queries
        with unit vectors), best first, of equal ones the lowest id first.

        queries: float32[Q, E]. Raises UserError.
        """
        queries = np.asarray(queries, np.float32)
        rows = self.index.side(modality)
        scores = queries @ rows.take(np.arange(rows.rows)).T
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(scores, ids, axis=1)
        missing = ((0, 0), (0, k - ids.shape[1]))
        return np.pad(ids, missing, constant_values=-1), np.pad(found, missing)

    def find(self, query: np.ndarray, k: int, options: Options | None = None) -> list[Hit]:
        """At most k hits for one query float32[E], best first.

        Near duplicates and what is unsafe are removed from the k that were found, so fewer may
        remain. Raises UserError.
        """
        options = options or Options()
        ids, scores = self.search(np.asarray(query)[None], k, options.modality)
        pairs = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        return [Hit(row, score) for row, score in pairs if row >= 0]

    def results(self, hits: Iterable[Hit]) -> list[dict[str, Any]]:
        """[{id, key, caption, score}] of hits, in their order."""
        raise NotImplementedError


def combine(vectors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """float32[E] of unit norm: the weighted sum of queries float32[n, E]."""
    return unit_rows(np.asarray(weights, np.float32) @ vectors)

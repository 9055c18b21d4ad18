"""A batch of queries to rows, in the one thread that runs the model.

Texts and pictures of all queries are embedded by one call each, and queries of one modality are
searched by one call, all in few shapes. The file exists so that what is compiled is a
dozen programs, whatever clients send, and a mistake in one query is that query's alone.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.serve.batching import padded, padded_rows
from vlp_jax.serve.metrics import Metrics
from vlp_jax.serve.requests import Query, Refused
from vlp_jax.serve.search import Hit, Options, Searcher

KEPT_TEXTS = 4096
SIDES = {"text": "texts", "image": "pictures"}
TIMES = {"texts": "text_clip_inference_time", "pictures": "image_clip_inference_time"}


@dataclasses.dataclass(frozen=True)
class Found:
    """Attributes:
    query: float32[E], what was searched for.
    vectors: float32[parts, E], what each part stands for.
    hits: best first.
    """

    query: np.ndarray
    vectors: np.ndarray
    hits: Sequence[Hit] = ()


class Lookup:
    """Runs batches over one searcher; not for several threads at once."""

    def __init__(self, searcher: Searcher, metrics: Metrics):
        self._searcher, self._metrics = searcher, metrics
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def run(self, queries: Sequence[Query]) -> list[Found | Exception]:
        """What each query finds, or why it cannot; of `k` = 0 only its vector. Parts are texts,
        pictures as uint8[S, S, 3] and vectors.
        """
        self._metrics.batch.observe(len(queries))
        parts = [part for query in queries for part in query.parts]
        texts = self.texts([part.value for part in parts if part.kind == "text"])
        pictures = self._pictures([part.value for part in parts if part.kind == "image"])
        sources = {"text": iter(texts), "image": iter(pictures)}
        found: list[Found | Exception] = []
        for query in queries:
            rows = [next(sources[p.kind]) if p.kind in sources else p.value for p in query.parts]
            found.append(_summed(query, rows))
        alike: dict[Any, list[int]] = {}
        for i, query in enumerate(queries):
            if query.k and isinstance(found[i], Found):
                alike.setdefault(_rows_of(query), []).append(i)
        for some in alike.values():
            answers = self._search([queries[i] for i in some], [found[i] for i in some])
            for i, answer in zip(some, answers, strict=True):
                found[i] = answer
        return found

    def warm_up(self, size: int) -> None:
        """Compiles what a batch of `size` texts, pictures or queries runs."""
        searcher = self._searcher
        searcher.search(np.ones((size, searcher.index.width), np.float32), 40)
        if searcher.model is not None:
            for side in searcher.model.embedders():
                one = ["a"] if side == "text" else [np.zeros((8, 8, 3), np.uint8)]
                searcher.encode(**{SIDES[side]: one * size})

    def texts(self, texts: Sequence[str]) -> list[np.ndarray | Exception]:
        """float32[E] per text, those asked before from memory."""
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        rows = dict(zip(new, self._encoded("texts", new), strict=True))
        found = [rows[text] if text in rows else self._kept[text] for text in texts]
        self._kept |= {text: row for text, row in rows.items() if not isinstance(row, Exception)}
        while len(self._kept) > KEPT_TEXTS:
            self._kept.popitem(last=False)
        return found

    def _pictures(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray | Exception]:
        return self._encoded("pictures", pictures)

    def _encoded(self, side: str, items: Sequence[Any]) -> list[np.ndarray | Exception]:
        if not items:
            return []
        try:
            with self._metrics.time(TIMES[side]):
                return list(self._searcher.encode(**{side: padded(items)})[: len(items)])
        except UserError as error:
            if len(items) == 1:
                return [Refused(400, str(error))]
            return [row for item in items for row in self._encoded(side, [item])]

    def _search(self, queries: Sequence[Query], found: Sequence[Found]) -> list[Found | Exception]:
        """Fills in the hits of queries over the same rows."""
        rows = padded_rows(np.stack([each.query for each in found]))
        count = max(query.k for query in queries)
        modality, where = _rows_of(queries[0])
        try:
            with self._metrics.time("knn_index_time"):
                ids, scores = self._searcher.search(rows, count, modality, where)
        except UserError as error:
            return [Refused(400, str(error))] * len(queries)
        except Exception as error:  # a failure of ours is that of these conditions, too
            return [error] * len(queries)
        return [
            self._chosen(query, each, ids[i, : query.k], scores[i, : query.k])
            for i, (query, each) in enumerate(zip(queries, found, strict=True))
        ]

    def _chosen(
        self, query: Query, found: Found, ids: np.ndarray, scores: np.ndarray
    ) -> Found | Exception:
        """One query with what is left of its rows."""
        options = Options(query.modality, query.deduplicate, query.safe)
        try:
            with self._metrics.time("dedup_time"):
                hits = self._searcher.chosen(ids, scores, options)
        except UserError as error:
            return Refused(400, str(error))
        return dataclasses.replace(found, hits=hits)


def _rows_of(query: Query) -> tuple[str, tuple[str, ...]]:
    return query.modality, query.where


def _summed(query: Query, rows: Sequence[np.ndarray | Exception]) -> Found | Exception:
    """The weighted sum of the parts of a query."""
    bad = next((row for row in rows if isinstance(row, Exception)), None)
    if bad is not None:
        return bad
    vectors = np.stack(rows)
    if not query.unit:
        return Found(vectors[0], vectors)
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    vectors = vectors / norms
    total = np.asarray([part.weight for part in query.parts], np.float32) @ vectors
    norm = float(np.linalg.norm(total))
    if norm < 1e-4:
        return Refused(400, "query: its parts cancel each other")
    return Found(total / norm, vectors)

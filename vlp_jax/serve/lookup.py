"""A batch of queries to rows, in the one thread that runs the model.

Texts and pictures of all queries are embedded by one call each, and queries of one modality are
searched by one call, all in shapes of powers of two. The file exists so that what is compiled is a
dozen programs, whatever clients send, and a mistake in one query is that query's alone.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.serve.batching import padded, padded_rows, power_of_two
from vlp_jax.serve.metrics import Metrics
from vlp_jax.serve.requests import Query, Refused
from vlp_jax.serve.search import Hit, Options, Searcher

KEPT_TEXTS = 4096
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
        for modality in {query.modality for query in queries if query.k}:
            some = [
                i
                for i, (query, each) in enumerate(zip(queries, found, strict=True))
                if query.modality == modality and query.k and isinstance(each, Found)
            ]
            if some:
                self._search(queries, found, some)
        return found

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

    def _search(
        self, queries: Sequence[Query], found: list[Found | Exception], some: Sequence[int]
    ) -> None:
        """Fills in the hits of some queries, all of one modality."""
        plain = [i for i in some if not _options(queries[i])]
        if plain:
            rows = padded_rows(np.stack([found[i].query for i in plain]))
            count = power_of_two(max(queries[i].k for i in plain))
            with self._metrics.time("knn_index_time"):
                ids, scores = self._searcher.search(rows, count, queries[plain[0]].modality)
            for i, row, score in zip(plain, ids, scores, strict=False):
                pairs = zip(row.tolist(), score.tolist(), strict=True)
                hits = [Hit(*pair) for pair in pairs if pair[0] >= 0][: queries[i].k]
                found[i] = dataclasses.replace(found[i], hits=hits)
        for i in set(some) - set(plain):
            found[i] = self._chosen(queries[i], found[i])

    def _chosen(self, query: Query, found: Found) -> Found | Exception:
        """One query of which rows are left out."""
        options = Options(query.modality, query.deduplicate, query.safe, query.where)
        try:
            with self._metrics.time("knn_index_time"):
                hits = self._searcher.find(found.query, query.k, options)
        except UserError as error:
            return Refused(400, str(error))
        return dataclasses.replace(found, hits=hits)


def _options(query: Query) -> bool:
    return bool(query.deduplicate or query.safe or query.where)


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

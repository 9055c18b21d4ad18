"""Asks an index: texts, pictures and vectors to rows, best first.

The file exists as the one search that the command, the service and a notebook share.
"""

import dataclasses
import functools
import importlib.util
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.digests import digests
from vlp_jax.api.model import Model
from vlp_jax.core.errors import UserError
from vlp_jax.data.walk import tell
from vlp_jax.serve.ann import Ann
from vlp_jax.serve.duplicates import first_of_each
from vlp_jax.serve.index import Index
from vlp_jax.serve.nearest import Nearest
from vlp_jax.serve.safety import Safety, find_safety
from vlp_jax.serve.vectors import unit_rows

_MASKS = 16  # results of conditions that are kept, a byte a row


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
    """Searches an index.

    Args:
      index: what is searched.
      model: encodes texts and pictures.
      exact: do not use the faiss index beside the vectors, where there is one.

    Attributes:
      nearest: f('image' or 'text') -> the exact search, its chunks placed on the devices once.
      ann: f('image' or 'text') -> the faiss index; None where there is none, faiss is not installed
        or the search is to be exact.

    Raises:
      UserError: the model is not the one of the index; both digests are named.
    """

    def __init__(self, index: Index, model: Model | None = None, exact: bool = False):
        self.index, self.model, self.exact = index, model, exact
        if model is not None:
            check_model(index, model)
        self.nearest = functools.cache(lambda modality: Nearest(index.side(modality)))
        self.ann = functools.cache(self._open_ann)
        self._masks: OrderedDict[tuple[str, ...], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str] = (), pictures: Sequence[Any] = ()) -> np.ndarray:
        """float32[n, E] of unit norm: the texts, then the pictures (paths, bytes of files, Pillow
        pictures or uint8[H, W, 3]).

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
        self, queries: np.ndarray, k: int, modality: str = "image", where: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """(ids int64[Q, c], -1 where there is none; scores float32[Q, c], 0 there), best first, of
        equal scores the lowest id first; c is k, or the rows of the index where these are fewer.

        queries: float32[Q, E]; scores are their products with unit vectors, so cosines where they
        are of unit norm. where: conditions on the metadata; with any the search is exact.

        Raises:
          UserError: another width, numbers that are not finite, k below 1, an unknown modality, a
            condition that cannot be.
        """
        queries = self._checked(queries, k)
        vectors = self.index.side(modality)
        k = min(k, vectors.rows)
        if where or self.ann(modality) is None:
            conditions = (where,) if isinstance(where, str) else tuple(where)
            mask = self._mask(conditions) if where else None
            return self.nearest(modality).search(queries, k, mask)
        return self.ann(modality).search(queries, k)

    def find(self, query: np.ndarray, k: int, options: Options | None = None) -> list[Hit]:
        """At most k hits for one query float32[E], best first.

        Near duplicates and what is unsafe are removed from the k that were found, so fewer may
        remain. Raises UserError as `search`, and where safe mode has nothing to judge by.
        """
        return self.find_counted(query, k, options)[0]

    def find_counted(
        self, query: np.ndarray, k: int, options: Options | None = None
    ) -> tuple[list[Hit], Counter]:
        """As `find`, and how many {duplicates, unsafe} were left out."""
        options = options or Options()
        query = np.asarray(query, np.float32).reshape(1, -1)
        ids, scores = self.search(query, k, options.modality, options.where)
        left: Counter = Counter()
        return self.chosen(ids[0], scores[0], options, left), left

    def chosen(
        self, ids: np.ndarray, scores: np.ndarray, options: Options, left: Counter | None = None
    ) -> list[Hit]:
        """What `find` leaves of one query's row of `search`: int64[k], -1 is none, and float32[k].
        left: counts what is left out. Raises UserError.
        """
        ids, scores = ids[ids >= 0], scores[ids >= 0]
        left = Counter() if left is None else left
        if options.deduplicate and len(ids):
            rows = self.index.vectors(ids, options.modality)
            kept = first_of_each(rows, options.alike)
            left["duplicates"] += len(ids) - len(ids[kept])
            ids, scores = ids[kept], scores[kept]
        if options.safe and len(ids):
            side = "image" if "image" in self.index.sides else options.modality
            kept = self.safety.probability(self.index.vectors(ids, side)) <= 0.5
            left["unsafe"] += len(ids) - len(ids[kept])
            ids, scores = ids[kept], scores[kept]
        return [Hit(*pair) for pair in zip(ids.tolist(), scores.tolist(), strict=True)]

    def results(self, hits: Iterable[Hit]) -> list[dict[str, Any]]:
        """[{id, key, caption, score}] of hits, in their order; a key that is not in the metadata is
        the picture's path without suffix, or the id."""
        hits = list(hits)
        said = self.index.metadata([hit.id for hit in hits], ("key", "caption", "image_path"))
        return [
            {
                "id": hit.id,
                "key": _key(row, hit.id),
                "caption": row.get("caption"),
                "score": hit.score,
            }
            for hit, row in zip(hits, said, strict=True)
        ]

    @functools.cached_property
    def safety(self) -> Safety:
        """What safe mode judges by; `safety.told` says what that is. Raises UserError."""
        return find_safety(self.index.folder, self.index.width, self.model)

    def _open_ann(self, modality: str) -> Ann | None:
        path = self.index.ann_path(modality)
        if self.exact or path is None:
            return None
        if importlib.util.find_spec("faiss") is None:
            tell(f"{path}: not used, since faiss is not installed (extra `search`); exact search")
            return None
        return Ann(path, self.index.side(modality))

    def _checked(self, queries: np.ndarray, k: int) -> np.ndarray:
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.index.width:
            wanted = f"the index has vectors of {self.index.width} numbers"
            raise UserError(f"query of shape {list(queries.shape)}: {wanted}")
        if not np.isfinite(queries).all():
            raise UserError("query: holds numbers that are not finite")
        if isinstance(k, bool) or not hasattr(k, "__index__"):
            raise UserError(f"k={k!r}: must be a whole number")
        if k < 1:
            raise UserError(f"k={k}: must be at least 1")
        return queries

    def _mask(self, where: tuple[str, ...]) -> np.ndarray:
        """bool[n] of conditions; the last few are kept."""
        with self._lock:
            if where not in self._masks:
                self._masks[where] = self.index.table.where(where)
                while len(self._masks) > _MASKS:
                    self._masks.popitem(last=False)
            self._masks.move_to_end(where)
            return self._masks[where]


def check_model(index: Index, model: Model) -> None:
    """Refuses a model whose vectors are not those of the index.

    Raises:
      UserError: other weights, preprocessing or width; both digests are named.
    """
    side = next(iter(model.embedders()))
    if model.width(side) != index.width:
        widths = f"vectors of {index.width} numbers, {model.path} gives {model.width(side)}"
        raise UserError(f"--index={index.folder}: {widths}")
    known = index.manifest.get("plan", {}).get("digests")
    if known is None:
        return tell(f"{index.folder}: does not say which model it is of; {model.path} is taken")
    for what, found in digests(model).items():
        if found != known.get(what):
            both = f"{what} of digest {known.get(what)}, {model.path} has {found}"
            raise UserError(f"--index={index.folder}: is of a model with {both}")


def combine(vectors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """float32[E] of unit norm: the weighted sum of queries float32[n, E]; zeros where nothing
    remains of it."""
    return unit_rows(np.asarray(weights, np.float32) @ vectors)


def _key(row: dict[str, Any], number: int) -> str:
    return str(row.get("key") or os.path.splitext(row.get("image_path") or "")[0] or number)

"""Approximate search by faiss (extra `search`): Johnson et al. 2017, arXiv:1702.08734.

Sizes as clip-retrieval chooses them: flat is exact, HNSW of 32 links (Malkov and Yashunin 2016,
arXiv:1603.09320) up to some ten million rows, inverted lists of product codes above. What faiss
finds is scored again with the exact vectors. The file exists as the one place that knows faiss.
"""

import contextlib
import math
import threading
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.serve.vectors import Vectors, unit_rows

KINDS = ("flat", "hnsw", "ivfpq")
_TRAINED_ON = 1 << 18  # rows that choose lists and codes
_BLOCK = 1 << 15
_OVER = 4  # times as many are looked at as are asked for, since codes are coarse


def load_faiss(asked: str) -> Any:
    """faiss. Raises UserError, which names what asked for it, where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"{asked}: needs faiss: pip install 'vlp_jax[search]'") from error
    return faiss


def check_kind(kind: str) -> None:
    """Raises UserError for an unknown kind ('' is none), or where faiss is not installed."""
    if kind and kind not in KINDS:
        raise UserError(f"--ann={kind}: unknown{nearest(kind, KINDS)}")
    if kind:
        load_faiss(f"--ann={kind}")


def build_ann(kind: str, vectors: Vectors, path: str) -> None:
    """Writes a faiss index of unit vectors by inner product. Raises UserError: too few rows for the
    kind, or one that is not finite.
    """
    faiss = load_faiss(f"--ann={kind}")
    index = _empty(faiss, kind, vectors)
    try:
        if not index.is_trained:
            some = np.linspace(0, vectors.rows - 1, min(vectors.rows, _TRAINED_ON))
            index.train(_finite(vectors, some.astype(np.int64)))
        for start in range(0, vectors.rows, _BLOCK):
            index.add(_finite(vectors, np.arange(start, min(start + _BLOCK, vectors.rows))))
    except RuntimeError as error:  # too few rows for its lists and codes
        many = f"faiss cannot make it of {vectors.rows} rows of {vectors.width} numbers"
        raise UserError(f"--ann={kind}: {many}; take flat") from error
    faiss.write_index(index, path)


def _finite(vectors: Vectors, ids: np.ndarray) -> np.ndarray:
    rows = vectors.take(ids)
    sound = np.isfinite(rows).all(axis=1)
    if not sound.all():
        raise UserError(f"row {ids[~sound][0]} of the vectors is not finite; make the index again")
    return rows


def _empty(faiss: Any, kind: str, vectors: Vectors) -> Any:
    width, rows, inner = vectors.width, vectors.rows, faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(width)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, 32, inner)
        index.hnsw.efConstruction = 200
        return index
    lists = max(1, min(int(4 * math.sqrt(rows)), rows // 39))  # faiss wants 39 rows a list
    codes = next(m for m in range(max(1, width // 4), 0, -1) if width % m == 0)
    bits = max(1, min(8, int(math.log2(max(2, rows / 16)))))  # few rows choose few codes
    return faiss.index_factory(width, f"IVF{lists},PQ{codes}x{bits}", inner)


class Ann:
    """A faiss index beside the vectors.

    Raises:
      UserError: faiss is not installed, the file is none of its, or holds other rows.
    """

    def __init__(self, path: str, vectors: Vectors):
        self._index, self._vectors = read_ann(path), vectors
        self._usual = _width(self._index)
        self._lock = threading.Lock()  # how wide a search looks is the index's own
        if (self._index.ntotal, self._index.d) != (vectors.rows, vectors.width):
            has = f"{self._index.ntotal} rows of {self._index.d} numbers"
            raise UserError(f"{path}: {has}, the vectors are {vectors.rows} of {vectors.width}")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As Nearest.search, of the rows that faiss finds."""
        count = min(max(_OVER * k, 64), self._vectors.rows)
        with self._lock:
            self._widen(count)
            _, candidates = self._index.search(np.ascontiguousarray(queries, np.float32), count)
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        for row, (query, found) in enumerate(zip(queries, candidates, strict=True)):
            found = np.unique(found[found >= 0])
            rows = self._vectors.take(found)
            score = np.where(rows.any(axis=1), rows @ query, -np.inf)
            order = np.argsort(-score, kind="stable")[:k]
            order = order[score[order] > -np.inf]
            ids[row, : len(order)], scores[row, : len(order)] = found[order], score[order]
        return ids, scores

    def _widen(self, count: int) -> None:
        """Looks wide enough that `count` rows can be found, as clip-retrieval does for many, and no
        wider than the file says for another search."""
        if hasattr(self._index, "hnsw"):
            self._index.hnsw.efSearch = max(self._usual, 2 * count)
        if hasattr(self._index, "nprobe"):
            share = math.ceil(count * self._index.nlist / max(1, self._index.ntotal))
            wide = max(32, 4 * share, math.ceil(count / 3000))
            self._index.nprobe = max(self._usual, min(wide, self._index.nlist))


def _width(index: Any) -> int:
    """How wide a faiss index looks by itself."""
    return index.hnsw.efSearch if hasattr(index, "hnsw") else getattr(index, "nprobe", 0)


def read_ann(path: str) -> Any:
    """A faiss index of a file. Raises UserError."""
    faiss = load_faiss(path)
    try:
        found = faiss.read_index(path)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path}: is no index of faiss or damaged") from error
    if isinstance(found, faiss.IndexIDMap):  # asked for its vectors it ends the process
        raise UserError(
            f"{path}: an IndexIDMap, whose rows have numbers of its own; it must hold them in order"
        )
    return found


def reconstructed(path: str) -> Vectors:
    """All vectors of a faiss index, as float32 in memory; of product codes what they stand for.

    Raises:
      UserError: see read_ann, or an index that cannot give its vectors back.
    """
    index = read_ann(path)
    try:
        with contextlib.suppress(AttributeError):
            index.make_direct_map()
        return Vectors([unit_rows(index.reconstruct_n(0, index.ntotal))])
    except RuntimeError as error:
        raise UserError(f"{path}: cannot give its vectors back; keep img_emb/*.npy too") from error

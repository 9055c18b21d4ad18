"""Exact search: the k largest cosines of every query over any number of vectors, in their true
order.

Chunks of the memory-mapped parts are shared by the devices; each gives the k best of a chunk, and
these are merged in the order of their rows, so that of equal scores the lowest row comes first, on
one device and on many. Scores are products in float32. On CPUs a chunk is the mapped memory itself,
turned into float32 a block at a time; other devices hold their share as far as it fits and are sent
the rest anew. The file exists because an index is larger than memory and its answer must not depend
on what it runs on.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.types import Array
from vlp_jax.serve.vectors import Vectors

LARGEST, SMALLEST = 1 << 16, 1 << 10  # rows of a chunk; smaller parts are filled up
BLOCK = 2048  # rows of float32 at a time on a CPU: they stay in its cache
_QUERIES = (1, 4, 8, 32, 64)  # sizes that are compiled
_BEST = (128, 1024, 8192)  # of k
_PENDING = 32  # chunks whose results are held before they are merged
_SHARE = 0.5  # of a device's memory, that vectors may fill

Found = tuple[np.ndarray, np.ndarray]  # ids int64[Q, c] and scores float32[Q, c], -1 and -inf: none


class Chunk(NamedTuple):
    """Rows [start, start + size) of all vectors, of which `skip` belong to the chunk before and
    those from `end` on are zeros: every chunk has a size that is compiled already.
    """

    device: jax.Device
    start: int
    skip: int
    end: int
    rows: np.ndarray | Array  # [size, E]; on the device where it stays there
    scale: Array  # float32[size], 1 / norm of the rows that count, else 0


class Nearest:
    """The rows nearest to queries.

    Args:
      vectors: what is searched; rows of zeros are never found.
      devices: default all of the job, of which every process serves its own.
    """

    def __init__(self, vectors: Vectors, devices: Sequence[jax.Device] | None = None):
        self.vectors = vectors
        devices = list(jax.devices() if devices is None else devices)
        self._is_job = len({device.process_index for device in devices}) > 1
        self.chunks = list(_placed(vectors, devices))

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None = None) -> Found:
        """(ids int64[Q, k], -1 where there is none; scores float32[Q, k], 0 there).

        queries: float32[Q, E]; scores are their products with unit vectors. mask: bool[n], the rows
        that count. Best first, of equal ones the lowest id.
        """
        most = _QUERIES[-1]
        starts = range(0, len(queries), most)
        found = [self._some(queries[at : at + most], k, mask) for at in starts]
        blank = np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        ids, scores = (np.concatenate(both) for both in zip(blank, *found, strict=True))
        return ids, np.where(ids < 0, np.float32(0), scores)

    def _some(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Found:
        size = next(size for size in _QUERIES if size >= len(queries))
        filled = np.pad(queries, ((0, size - len(queries)), (0, 0)))
        sent = {chunk.device: jax.device_put(filled, chunk.device) for chunk in self.chunks}
        best = next((most for most in _BEST if most >= k), self.vectors.rows)
        merged = _nothing(size, k)
        for at in range(0, len(self.chunks), _PENDING):
            some = self.chunks[at : at + _PENDING]
            pending = [_search_chunk(chunk, sent[chunk.device], best, mask) for chunk in some]
            merged = merge([merged, *map(_ids, some, jax.device_get(pending))], k)
        if self._is_job:
            merged = merge(_of_all_processes(merged), k)
        return merged[0][: len(queries)], merged[1][: len(queries)]


def merge(found: Sequence[Found], k: int) -> Found:
    """The k best of several results, of which each has lower ids than the next where scores are
    equal. Worked example: scores [[.9, .5]] of ids [[1, 0]] and [[.9]] of [[7]], k=2: [[1, 7]].
    """
    ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    spare = -(-max(scores.shape[1], k) // 1024) * 1024 - scores.shape[1]  # few compiled sizes
    scores = np.pad(scores, ((0, 0), (0, spare)), constant_values=-np.inf)
    ids = np.pad(ids, ((0, 0), (0, spare)), constant_values=-1)
    scores, places = jax.device_get(_top(scores, min(-(-k // 128) * 128, scores.shape[1])))
    return np.take_along_axis(ids, places, axis=1)[:, :k], scores[:, :k]


def _nothing(queries: int, k: int) -> Found:
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def _search_chunk(chunk: Chunk, queries: Array, best: int, mask: np.ndarray | None) -> tuple:
    """Starts the search of one chunk: (scores [Q, c], rows within the chunk int32[Q, c])."""
    rows, scale, size = chunk.rows, chunk.scale, len(chunk.rows)
    if mask is not None:
        mine = np.zeros(size, np.float32)
        mine[: chunk.end] = mask[chunk.start : chunk.start + chunk.end]
        scale = scale * jax.device_put(mine, chunk.device)
    if isinstance(rows, np.ndarray):
        rows = jax.device_put(rows, chunk.device)
    return _best(queries, rows, scale, _block(chunk.device, size), min(best, size))


def _ids(chunk: Chunk, found: tuple[np.ndarray, np.ndarray]) -> Found:
    scores, rows = found
    return np.where(scores > -np.inf, rows.astype(np.int64) + chunk.start, -1), scores


def _of_all_processes(found: Found) -> list[Found]:
    from jax.experimental.multihost_utils import process_allgather

    ids, scores = process_allgather((found[0].view(np.int32), found[1]))  # JAX has no int64
    return list(zip(np.asarray(ids).view(np.int64), np.asarray(scores), strict=True))


@functools.partial(jax.jit, static_argnames="k")
def _top(scores: Array, k: int) -> tuple[Array, Array]:
    return jax.lax.top_k(scores, k)


@functools.partial(jax.jit, static_argnames=("block", "k"))
def _best(queries: Array, rows: Array, scale: Array, block: int, k: int) -> tuple[Array, Array]:
    """The k best of a chunk: scores float32[Q, k] and places int32[Q, k]; equal ones in order."""

    exactly = jax.lax.Precision.HIGHEST

    def product(some: tuple[Array, Array]) -> Array:
        some, scale = some[0].astype(jnp.float32), some[1]
        if len(queries) == 1:  # one pass over float16
            scores = jnp.matmul(queries, some.T, precision=exactly)  # [1, block]
        else:  # without the barriers every product turns its rows into float32 again
            some = jax.lax.optimization_barrier(some)
            scores = jnp.matmul(some, queries.T, precision=exactly)  # [block, Q]
            scores = jax.lax.optimization_barrier(scores).T
        return jnp.where(scale > 0, scores * scale, -jnp.inf)

    blocks = rows.reshape(-1, block, rows.shape[1]), scale.reshape(-1, block)
    scores = jax.lax.map(product, blocks).transpose(1, 0, 2).reshape(len(queries), -1)  # [Q, size]
    return jax.lax.top_k(scores, k)


@functools.partial(jax.jit, static_argnames="block")
def _inverse_norms(rows: Array, skip: Array, block: int) -> Array:
    """float32[size]: 1 / norm of the rows from `skip` on, 0 for others and for zeros."""

    def squares(some: Array) -> Array:
        return jnp.sum(jnp.square(some.astype(jnp.float32)), axis=1)

    square = jax.lax.map(squares, rows.reshape(-1, block, rows.shape[1])).reshape(-1)
    counts = (jnp.arange(len(rows)) >= skip) & (square > 0)
    return jnp.where(counts, jax.lax.rsqrt(jnp.where(counts, square, 1)), 0)


def _block(device: jax.Device, size: int) -> int:
    return min(BLOCK, size) if device.platform == "cpu" else size


def chunk_size(rows: int) -> int:
    """Rows of a part's chunks: a power of two, the largest whose last chunk wastes no more than an
    eighth of the part, since it reaches back into the one before.
    """
    size = LARGEST
    while size > SMALLEST and (size > rows or -rows % size > rows // 8):
        size //= 2
    return size


def _cuts(vectors: Vectors) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """(start, skip, end, rows [size, E]) of all chunks, in order."""
    for part, stop in zip(vectors.parts, vectors.ends.tolist(), strict=True):
        first, count = stop - len(part), len(part)
        size = chunk_size(count)
        if 0 < count < size:
            size = max(64, 1 << (count - 1).bit_length())
            yield first, 0, count, np.pad(part, ((0, size - count), (0, 0)))
            continue
        for at in range(0, count, size):
            start = min(at, count - size)
            yield first + start, at - start, size, part[start : start + size]


def _placed(vectors: Vectors, devices: Sequence[jax.Device]) -> Iterator[Chunk]:
    """The chunks of this process's devices, in order; all devices get runs of about equal
    length."""
    cuts = list(_cuts(vectors))
    total = sum(len(rows) for *_, rows in cuts)
    room = {device: _room(device) for device in devices}
    done = 0
    for start, skip, end, rows in cuts:
        device = devices[min(len(devices) - 1, done * len(devices) // total)]
        done += len(rows)
        if device.process_index != jax.process_index():
            continue
        on_device = jax.device_put(np.asarray(rows), device, may_alias=True)
        scale = _inverse_norms(on_device, skip, _block(device, len(rows)))
        room[device] -= rows.nbytes
        yield Chunk(device, start, skip, end, on_device if room[device] >= 0 else rows, scale)


def _room(device: jax.Device) -> float:
    """Bytes of vectors that may stay on a device; a CPU maps them and copies none."""
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return _SHARE * limit if limit else float("inf")

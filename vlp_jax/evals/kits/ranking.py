"""Exact ranks and nearest neighbours over cosine similarities, in blocks that bound memory.

Rank rule: pessimistic, as in the protocol sheet for retrieval; a positive tied with m negatives
ranks after them, so constant embeddings score the worst recall and not a perfect one. The file
exists because retrieval, zero-shot and kNN are the same operation, and because a default matmul on
an accelerator (bf16, tf32) would move ranks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.vectors import as_sets, similarities

BLOCK_ELEMENTS = 2**24  # 64 MB of float32 similarities at a time


class Ranked(NamedTuple):
    """What `rank` finds for each of Q queries."""

    rank: np.ndarray  # int32[Q], 1 is best
    margin: np.ndarray  # float32[Q], best positive minus best negative
    top: np.ndarray  # int32[Q, k], nearest candidates
    score: np.ndarray  # float32[Q, k], their similarities


@functools.partial(jax.jit, static_argnames="k")
def _rank_block(block, positive, extra, candidates, weight, k):
    sims = similarities(*block, candidates)  # [q, N]
    return _ranked(sims, weight, positive, extra, k)


@functools.partial(jax.jit, static_argnames="k")
def _few_block(block, positive, extra, candidates, weight, k):
    queries, ids, score = block
    sims = similarities(queries, candidates)  # [q, N]
    behind = score.min(1, keepdims=True) - 2 + jnp.minimum(sims, 1)  # cosines: at most 1
    sims = behind.at[jnp.arange(len(ids))[:, None], ids].set(score)
    return _ranked(sims, weight, positive, extra, k)


def _ranked(sims, weight, positive, extra, k):
    """Ranked of scores float32[q, N]; the others: see `rank`."""
    is_real = positive >= 0
    mine = jnp.take_along_axis(sims, jnp.maximum(positive, 0), axis=1)  # [q, P]
    best = jnp.max(jnp.where(is_real, mine, -jnp.inf), axis=1, keepdims=True)  # [q, 1]
    # not (s < best) rather than s >= best, here and below: a NaN must count against the query
    ahead = jnp.sum(jnp.where(sims < best, 0, weight), axis=1)  # [q], positives included
    own = jnp.where(is_real, weight[positive] - extra, 0)
    ahead -= jnp.sum(jnp.where(mine < best, 0, own), axis=1)
    rows = jnp.arange(sims.shape[0])[:, None]
    columns = jnp.where(is_real, positive, sims.shape[1])  # out of range: dropped
    others = jnp.max(sims.at[rows, columns].set(-jnp.inf, mode="drop"), axis=1)
    score, top = jax.lax.top_k(sims, k)
    return 1 + ahead, best[:, 0] - others, top, score


def rank(
    queries: np.ndarray,
    candidates: np.ndarray,
    positive: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    extra: np.ndarray | None = None,
    k: int = 5,
) -> Ranked:
    """Rank of each query's best positive among the candidates; ties count against it.

    queries: float32[Q, D], candidates: float32[N, D]; a row of either may be a set of vectors
    (core/vectors.py similarities). positive: int32[Q, P] candidate ids, padded with -1. weight:
    int32[N], how often a candidate stands in the list (default 1). extra: int32[Q, P], how many of
    the copies of a positive count as negatives (default 0). k: how many of the nearest to return.
    Worked example: similarities [.9, .5, .5] and positive [1] give rank 3: one negative above, one
    level.
    """
    weight = np.ones(len(candidates), np.int32) if weight is None else weight.astype(np.int32)
    return _in_blocks(_rank_block, (queries,), candidates, positive, weight, extra, k)


def rank_few(
    few: tuple[np.ndarray, np.ndarray],
    queries: np.ndarray,
    candidates: np.ndarray,
    positive: np.ndarray,
    *,
    weight: np.ndarray,
    extra: np.ndarray | None = None,
    k: int = 5,
) -> Ranked:
    """`rank` where the nearest candidates of each query have another score, ids int32[Q, C] and
    float32[Q, C], and all others stand behind them in their order.

    queries, candidates: of unit norm. weight: int32[N], as the others: see `rank`.
    """
    some = (queries, *few)
    return _in_blocks(_few_block, some, candidates, positive, weight.astype(np.int32), extra, k)


def _in_blocks(fn, queries, candidates, positive, weight, extra, k) -> Ranked:
    """fn(some of the queries, their positive and extra, candidates, weight, k), joined."""
    count, n = len(positive), len(weight)
    extra = np.zeros_like(positive) if extra is None else extra
    wide = n if candidates is None else n * _vectors(queries[0]) * _vectors(candidates)
    size, k = max(1, min(count, BLOCK_ELEMENTS // max(wide, 1))), min(k, n)
    candidates, weight = jax.device_put((candidates, weight))
    blocks = []
    for start in range(0, count, size):
        some = [_pad_rows(a[start : start + size], size) for a in (*queries, positive, extra)]
        *block, p, e = jax.device_put(some)
        done = jax.device_get(fn(tuple(block), p, e, candidates, weight, k=k))
        blocks.append([a[: count - start] for a in done])
    return Ranked(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _pad_rows(a: np.ndarray, rows: int) -> np.ndarray:
    """One block shape for all blocks, so that one program is compiled."""
    return np.pad(a, ((0, rows - len(a)), *[(0, 0)] * (a.ndim - 1)))


def _vectors(rows: np.ndarray) -> int:
    """How many vectors a row has."""
    return as_sets(rows).shape[1]


@functools.partial(jax.jit, static_argnames="k")
def _merge_block(score, index, queries, bank, offset, num_real, k):
    sims = similarities(queries, bank)  # [q, n]
    sims = jnp.where(jnp.arange(bank.shape[0]) < num_real, sims, -jnp.inf)
    ids = jnp.broadcast_to(offset + jnp.arange(bank.shape[0], dtype=index.dtype), sims.shape)
    score, place = jax.lax.top_k(jnp.concatenate([score, sims], axis=1), k)
    return score, jnp.take_along_axis(jnp.concatenate([index, ids], axis=1), place, axis=1)


def nearest_neighbours(
    queries: np.ndarray, bank: np.ndarray, k: int, block: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest inner products per query over a bank of any size: scores float32[Q, k], ids
    int32[Q, k].

    Rows may be sets of vectors, as in `rank`. Ties go to the smaller id. k is cut to the size of
    the bank.
    """
    block = max(1, block // (_vectors(queries) * _vectors(bank)))
    k, block = min(k, len(bank)), min(block, len(bank))
    found = []
    for start in range(0, len(queries), block):
        rows = jax.device_put(queries[start : start + block])
        score = jnp.full((rows.shape[0], k), -jnp.inf, jnp.float32)
        index = jnp.full((rows.shape[0], k), -1, jnp.int32)
        for at in range(0, len(bank), block):
            part = bank[at : at + block]
            args = jax.device_put((_pad_rows(part, block), np.int32(at), np.int32(len(part))))
            score, index = _merge_block(score, index, rows, *args, k)
        found.append(jax.device_get((score, index)))
    scores, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, ids

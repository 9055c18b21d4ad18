"""Reductions over all pairs of a global batch that never hold all pairs.

Logits l_ij = x_i . y_j (or max_q x_iq . y_j) are made tile by tile: this device's rows against a
piece of the gathered columns. Forward keeps row and column statistics; backward makes the tiles
again: 8 B^2 E FLOPs in all (12 for two full products) and memory linear in B. One all-gather, one
reduce-scatter and column statistics of length B travel. The file exists as the one engine under
every contrastive loss.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vlp_jax.core.types import Array
from vlp_jax.parallel.collectives import SPLIT, WHOLE, BatchAxes, over_batch

HIDDEN = -1e30  # logit of a pair that does not count; finite, so that no difference is NaN
_PADDING = np.iinfo(np.int32).min  # id of a column that fills up the last tile
_TILE_ELEMENTS = 1 << 21  # logits of one tile: 8 MiB in float32


class Sides(NamedTuple):
    """What a reduction over pairs reads.

    x: float[B, E] or float[B, Q, E], the rows; with Q queries a logit is their maximum.
    y: float[B, E], the columns.
    row_ids: int32[B] and column_ids: int32[B + K]; a pair with equal ids does not count.
    queue: float[K, E], more columns, the same on every device, without gradient.
    """

    x: Array
    y: Array
    row_ids: Array | None = None
    column_ids: Array | None = None
    queue: Array | None = None


class LogSums(NamedTuple):
    """Statistics of the logits that count; where none does, about -1e30.

    row: float32[B], column: float32[B + K], log-sum-exp over the other side; row_max, column_max:
    the largest logit, without gradient; row_sum: float32[B], sum of a row's logits, those that do
    not count too, with queries only (else 0: it is x_i . sum_j y_j).
    """

    row: Array
    column: Array
    row_sum: Array
    row_max: Array
    column_max: Array


def tile_length(rows: int, columns: int) -> int:
    """Columns per tile for so many local rows: a divisor of `columns` where one is near."""
    most = min(columns, max(16, _TILE_ELEMENTS // rows))
    return next((n for n in range(most, most // 2, -1) if columns % n == 0), most)


def _gathered(axes: BatchAxes, sides: Sides, tile: int) -> tuple[Array, Array]:
    """Columns of all devices and the queue in tiles: (y [n, t, E], ids int32[n, t])."""
    y = axes.gather(sides.y)
    y = y if sides.queue is None else jnp.concatenate([y, sides.queue.astype(y.dtype)])
    ids = jnp.arange(len(y), dtype=jnp.int32) if sides.column_ids is None else sides.column_ids
    tile = min(tile, len(y)) or tile_length(sides.x[..., 0].size, len(y))
    short = -len(y) % tile
    if short:
        y = jnp.pad(y, ((0, short), (0, 0)))
        ids = jnp.pad(ids, (0, short), constant_values=_PADDING)
    return rearrange(y, "(n t) e -> n t e", t=tile), ids.reshape(-1, tile)


def _product(equation: str, a: Array, b: Array) -> Array:
    """einsum summed in float32; float32 operands are multiplied as float32 on every backend."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(equation, a, b, precision=exact, preferred_element_type=jnp.float32)


def _logits(x: Array, y: Array) -> Array:
    """[b, E], [t, E] -> [b, t]; [b, Q, E], [t, E] -> [b, Q, t], before the maximum."""
    return _product("...e,te->...t", x, y)


def _counted(sides: Sides, logits: Array, ids: Array) -> Array:
    """The maximum over queries, pairs that do not count at HIDDEN. [b, (Q,) t] -> [b, t]"""
    logits = logits.max(1) if logits.ndim == 3 else logits
    logits = jnp.where(ids == _PADDING, HIDDEN, logits)
    if sides.row_ids is None:
        return logits
    return jnp.where(sides.row_ids[:, None] == ids, HIDDEN, logits)


def _backward(
    axes: BatchAxes, sides: Sides, tiles: tuple[Array, Array], weigh: Callable, extra: Any
) -> tuple[Array, Array, Array]:
    """(dx, dy of this device's rows and columns, sum of all dlogits).

    weigh(logits [b, t], the tile's part of `extra`) -> dlogits [b, t].
    """
    x = sides.x

    def body(carry: tuple, piece: tuple) -> tuple:
        dx, total = carry
        y, ids, rest = piece
        logits = _logits(x, y)
        weights = weigh(_counted(sides, logits, ids), rest)
        total = total + weights.sum()
        if x.ndim == 3:  # the gradient goes to the largest query, the first of equals
            largest = jnp.arange(x.shape[1])[:, None] == logits.argmax(1)[:, None]  # [b, Q, t]
            weights = jnp.where(largest, weights[:, None], 0)
        weights = weights.astype(x.dtype)
        dy = _product("rt,re->te", weights.reshape(-1, len(y)), x.reshape(-1, x.shape[-1]))
        return (dx + _product("...t,te->...e", weights, y), total), dy

    start = jnp.zeros(x.shape, jnp.float32), jnp.float32(0)
    (dx, total), dy = jax.lax.scan(body, start, (*tiles, extra))
    dy = rearrange(dy, "n t e -> (n t) e")[: axes.size * len(sides.y)]  # without queue and padding
    dy = axes.scatter_sum(dy)
    return dx.astype(x.dtype), dy.astype(sides.y.dtype), axes.sum(total)


def _without_gradient(sides: Sides) -> tuple:
    """Cotangents of ids and queue."""

    def zero(a: Array) -> Any:
        real = jnp.issubdtype(a.dtype, jnp.inexact)
        return jnp.zeros_like(a) if real else np.zeros(a.shape, jax.dtypes.float0)

    return tuple(None if a is None else zero(a) for a in sides[2:])


_SPECS = Sides(SPLIT, SPLIT, SPLIT, WHOLE, WHOLE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def log_sums(sides: Sides, tile: int = 0) -> LogSums:
    """Row and column log-sum-exp over all pairs that count.

    Args:
      sides: global arrays; under a mesh, rows split over the batch axes.
      tile: columns per tile; 0 chooses.

    Returns:
      LogSums. Exact to float32 rounding for any tile and number of devices.
    """
    return _log_sums_forward(sides, tile)[0]


def _log_sums_forward(sides: Sides, tile: int) -> tuple[LogSums, tuple]:
    def run(axes: BatchAxes, sides: Sides) -> tuple[LogSums, tuple[Array, Array]]:
        tiles = _gathered(axes, sides, tile)

        def body(carry: tuple, piece: tuple) -> tuple:
            (top, total, row_sum), (y, ids) = carry, piece
            logits = _logits(sides.x, y)
            if logits.ndim == 3:
                row_sum += jnp.where(ids == _PADDING, 0, logits.max(1)).sum(1)
            logits = _counted(sides, logits, ids)
            high = jnp.maximum(top, logits.max(1))
            total = total * jnp.exp(top - high) + jnp.exp(logits - high[:, None]).sum(1)
            column_top = logits.max(0)
            return (high, total, row_sum), (column_top, jnp.exp(logits - column_top).sum(0))

        zeros = jnp.zeros(len(sides.x))
        start = jnp.full(len(sides.x), HIDDEN), zeros, zeros
        (top, total, row_sum), columns = jax.lax.scan(body, start, tiles)
        count = axes.size * len(sides.y) + (0 if sides.queue is None else len(sides.queue))
        column_top, column = axes.log_sum(*(a.reshape(-1)[:count] for a in columns))
        return LogSums(top + jnp.log(total), column, row_sum, top, column_top), tiles

    specs = LogSums(SPLIT, WHOLE, SPLIT, SPLIT, WHOLE), WHOLE
    sums, tiles = over_batch(run, (_SPECS,), specs)(sides)
    return sums, (sides, tiles, sums.row, sums.column)


def _log_sums_backward(tile: int, kept: tuple, gradient: LogSums) -> tuple[Sides]:
    del tile

    def run(axes: BatchAxes, sides: Sides, tiles: tuple, rows: tuple, columns: tuple) -> tuple:
        row, row_weight, sum_weight = (a[:, None] for a in rows)
        count, length = tiles[1].shape
        short = count * length - len(columns[0])
        columns = [jnp.pad(a, (0, short)).reshape(count, length) for a in columns]

        def weigh(logits: Array, column: tuple[Array, Array]) -> Array:
            here = jnp.exp(logits - row) * row_weight + jnp.exp(logits - column[0]) * column[1]
            return here + sum_weight if sides.x.ndim == 3 else here

        return _backward(axes, sides, tiles, weigh, tuple(columns))[:2]

    sides, tiles, row, column = kept
    specs = (_SPECS, WHOLE, SPLIT, WHOLE)
    rows = row, gradient.row, gradient.row_sum
    inputs = sides, tiles, rows, (column, gradient.column)
    return (Sides(*over_batch(run, specs, SPLIT)(*inputs), *_without_gradient(sides)),)


log_sums.defvjp(_log_sums_forward, _log_sums_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def softplus_sums(sides: Sides, bias: Array, tile: int = 0) -> tuple[Array, Array, Array]:
    """Row sums of log(1 + exp(l_ij + bias)) over all pairs that count.

    Args:
      sides: as in `log_sums`, without queue.
      bias: float32[], added to every logit.
      tile: columns per tile; 0 chooses.

    Returns:
      (sums float32[B], largest logit of every row float32[B] and column float32[B], bias left out,
      without gradient).
    """
    return _softplus_forward(sides, bias, tile)[0]


def _softplus_forward(sides: Sides, bias: Array, tile: int) -> tuple[tuple, tuple]:
    def run(axes: BatchAxes, sides: Sides, bias: Array) -> tuple[tuple, tuple[Array, Array]]:
        tiles = _gathered(axes, sides, tile)

        def body(carry: tuple, piece: tuple) -> tuple:
            top, total = carry
            logits = _counted(sides, _logits(sides.x, piece[0]), piece[1])
            total = total + jax.nn.softplus(logits + bias).sum(1)
            return (jnp.maximum(top, logits.max(1)), total), logits.max(0)

        start = jnp.full(len(sides.x), HIDDEN), jnp.zeros(len(sides.x))
        (top, total), columns = jax.lax.scan(body, start, tiles)
        return (total, top, axes.max(columns.reshape(-1)[: axes.size * len(sides.y)])), tiles

    specs = (SPLIT, SPLIT, WHOLE), WHOLE
    sums, tiles = over_batch(run, (_SPECS, WHOLE), specs)(sides, bias)
    return sums, (sides, bias, tiles)


def _softplus_backward(tile: int, kept: tuple, gradient: tuple) -> tuple[Sides, Array]:
    del tile

    def run(axes: BatchAxes, sides: Sides, bias: Array, tiles: tuple, weight: Array) -> tuple:
        weigh = lambda logits, _: jax.nn.sigmoid(logits + bias) * weight[:, None]  # noqa: E731
        return _backward(axes, sides, tiles, weigh, ())

    sides, bias, tiles = kept
    outputs = over_batch(run, (_SPECS, WHOLE, WHOLE, SPLIT), (SPLIT, SPLIT, WHOLE))
    dx, dy, dbias = outputs(sides, bias, tiles, gradient[0])
    return Sides(dx, dy, *_without_gradient(sides)), dbias.reshape(jnp.shape(bias))


softplus_sums.defvjp(_softplus_forward, _softplus_backward)

"""Unit vectors of device arrays and the similarity of two of them, or of two sets of them.

The file exists so that losses, vocabularies and embeddings divide by one norm, and losses, hard
negatives and evaluations mean the same by the similarity of a picture that has several vectors.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array


def unit(x: Array) -> Array:
    """x / |x| over the last axis in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))  # torch normalises by max(|x|, 1e-12)


def as_sets(rows: Any) -> Any:
    """Rows as sets of vectors, of one where they are vectors: [N, E] or [N, n, E] -> [N, n, E]"""
    return rows[:, None] if rows.ndim == 2 else rows


def similarities(x: Array, y: Array) -> Array:
    """x_i . y_j of all pairs in float32; where a row is a set of vectors, the largest of any two
    (BLIP-2, arXiv:2301.12597, section 3.2).

    Worked example: rows {[1, 0], [0, 1]} and {[0, -1], [-1, 0]} and the vector [0.6, 0.8] give 0.8
    and -0.6.

    x: float[b, (n,) E]; y: float[t, (m,) E] -> float32[b, t]
    """
    x, y = (as_sets(a.astype(jnp.float32)) for a in (x, y))
    exact = jax.lax.Precision.HIGHEST  # bf16 or tf32 would move ranks
    flat = jnp.matmul(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]).T, precision=exact)
    return rearrange(flat, "(b n) (t m) -> b n t m", b=len(x), t=len(y)).max((1, 3))


def facing(rows: Array, others: Array) -> Array:
    """What stands for a set of vectors where there is room for one: the nearest to its other one; a
    row of one vector as it is.

    rows: float[b, (n,) E]; others: float[b, E] -> [b, E]
    """
    if rows.ndim == 2:
        return rows
    best = jnp.einsum("bne,be->bn", rows, others).argmax(1)
    return jnp.take_along_axis(jnp.asarray(rows), best[:, None, None], axis=1)[:, 0]

"""Unit vectors of device arrays and the similarity of two of them, or of two sets of them.

The file exists so that losses, vocabularies and embeddings divide by one norm, and losses, hard
negatives and evaluations mean the same by the similarity of a picture that has several vectors.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array


def unit(x: Array) -> Array:
    """x / |x| over the last axis in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))  # torch normalises by max(|x|, 1e-12)


def similarities(x: Array, y: Array) -> Array:
    """x_i . y_j of all pairs in float32; where a row is a set of vectors, the largest of any two
    (BLIP-2, arXiv:2301.12597, section 3.2).

    Worked example: rows {[1, 0], [0, 1]} and {[0, -1], [-1, 0]} and the vector [0.6, 0.8] give 0.8
    and -0.6.

    x: float[b, (n,) E]; y: float[t, (m,) E] -> float32[b, t]
    """
    x, y = (a.astype(jnp.float32).reshape(len(a), -1, a.shape[-1]) for a in (x, y))
    exact = jax.lax.Precision.HIGHEST  # bf16 or tf32 would move ranks
    flat = jnp.matmul(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]).T, precision=exact)
    return rearrange(flat, "(b n) (t m) -> b n t m", b=len(x), t=len(y)).max((1, 3))

"""Unit vectors of device arrays, as every similarity of the package takes them.

The file exists so that losses, vocabularies and embeddings divide by one norm.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


def unit(x: Array) -> Array:
    """x / |x| over the last axis in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))  # torch normalises by max(|x|, 1e-12)

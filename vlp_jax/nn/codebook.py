"""Vector quantisation: the nearest of K codes for every place (VQ-VAE, arXiv:1711.00937).

Distances are in float32 (bfloat16 picks other codes) and a tile of rows at a time, so that [N, K]
never lies in memory whole. The file exists for these two rules.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.nn.init import uniform

TILE = 1 << 24  # distances at once


class Quantised(NamedTuple):
    """What a codebook makes of places.

    straight: float32[..., D], the codes' values with the gradient of the input. codes: float32[...,
    D], the values themselves, whose gradient is the codebook's: what losses compare. index:
    int32[...].
    """

    straight: Array
    codes: Array
    index: Array


def nearest(rows: Array, codes: Array) -> Array:
    """The number of the nearest code, the first of equals: float[N, D], float[K, D] -> int32[N]."""
    rows, codes = (jax.lax.stop_gradient(a.astype(jnp.float32)) for a in (rows, codes))
    squares = jnp.square(codes).sum(1)
    exact = jax.lax.Precision.HIGHEST

    def one(row: Array) -> Array:
        return jnp.argmin(squares - 2 * jnp.dot(codes, row, precision=exact))

    tile = max(1, min(len(rows), TILE // len(codes)))
    return jax.lax.map(one, rows, batch_size=tile).astype(jnp.int32)


class Codebook(nn.Module):
    """K codes of D numbers, learned by gradients; starts as U(-1 / K, 1 / K), as in taming
    transformers.
    """

    count: int
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Quantised:
        """Quantises float[..., D]."""
        table = self.param("embedding", uniform(1 / self.count), (self.count, self.width))
        x = x.astype(jnp.float32)
        index = nearest(x.reshape(-1, self.width), table).reshape(x.shape[:-1])
        codes = table[index]
        return Quantised(x + jax.lax.stop_gradient(codes - x), codes, index)

    def values(self, index: Array) -> Array:
        """The codes of numbers, int32[...] -> float32[..., D]."""
        return self.get_variable("params", "embedding")[index]

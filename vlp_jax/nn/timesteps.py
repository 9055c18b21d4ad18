"""Numbers as vectors: the sinusoids and the small networks that tell a diffusion network its time,
its picture's size and crop.

The file exists because the order of the columns, cosines first, is a convention that no shape
tells: positions of transformers (nn/positions.py) have the sines first.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.nn.init import torch_linear


def sinusoids(numbers: Array, width: int) -> Array:
    """[cos(n f_0), ..., sin(n f_0), ...], f_i = 10000^(-i / (width / 2)) (CompVis/latent-diffusion
    timestep_embedding).

    Args:
      numbers: float32[...]; whole numbers need not be.
      width: even.

    Returns:
      float32[..., width].
    """
    half = width // 2
    frequency = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = numbers.astype(jnp.float32)[..., None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class VectorEmbed(nn.Module):
    """fc2(silu(fc1(x))): float[B, D'] -> [B, width]."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        how = dict(dtype=self.dtype, kernel_init=torch_linear)
        x = jax.nn.silu(nn.Dense(self.width, name="fc1", **how)(x))
        return nn.Dense(self.width, name="fc2", **how)(x)

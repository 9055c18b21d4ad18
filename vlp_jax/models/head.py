"""A few fully connected layers on top of a trunk.

The file exists as the one head of every task that answers with classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.types import Array
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.frozen import keys_beside


class Head(nn.Module):
    """[..., D] -> float32[..., out]: Dense and ReLU for every hidden width, then a Dense.

    Attributes:
      out: outputs.
      hidden: widths of the layers before; () is a linear head.
      dropout: rate after every hidden layer.
    """

    out: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        """rng: key[B] for dropout; None is deterministic."""
        init = nn.initializers.he_normal()
        for layer, width in enumerate(self.hidden, start=1):
            name = f"fc{layer}"
            x = jax.nn.relu(nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)(x))
            x = dropout(x, self.dropout, keys_beside(name, rngs.fold(rng, name)))
        return nn.Dense(self.out, dtype=jnp.float32, name="out")(x)


class CosineHead(nn.Module):
    """gamma * <x, w / |w|>: float[..., D] -> float32[..., out], gamma learned, no bias, so that a
    word's frequency cannot hide in its weights (BoWNet, arXiv:2002.12247, section 3.3).

    Attributes:
      out: rows of w.
      scale: gamma at the start; 1 suits features of norm sqrt(D), as LayerNorm leaves them.
    """

    out: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        del rng  # nothing is random here
        normal = nn.initializers.normal(0.02)  # short rows turn quickly
        kernel = self.param("kernel", normal, (x.shape[-1], self.out))
        gamma = self.param("scale", nn.initializers.constant(self.scale), ())
        kernel = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
        return gamma * (x.astype(jnp.float32) @ kernel)

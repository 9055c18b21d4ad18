"""BERT's head of words (arXiv:1810.04805): a dense layer, a norm, and the words' own table.

The file exists so that every decoder made of a BERT (BLIP's, the Q-Former) has one.
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.precision import ACTIVATIONS, pick

_NORMAL = nn.initializers.normal(0.02)


class WordHead(nn.Module):
    """States float[B, T, D] and the table of words float[V, D] to logits float32[B, T, V]."""

    activation: str
    norm_eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, table: Array) -> Array:
        dense = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=_NORMAL, name="dense")
        x = pick(ACTIVATIONS, self.activation, "activation")(dense(x))
        x = LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (table.shape[0],))
        how = dict(preferred_element_type=jnp.float32)
        return jnp.einsum("btd,vd->btv", x, table.astype(self.dtype), **how) + bias

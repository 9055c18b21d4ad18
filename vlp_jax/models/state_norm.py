"""A LayerNorm by itself, as a network: what stands between a frozen eye and what learns to look at
it (BLIP-2's ln_vision, arXiv:2301.12597; reference: salesforce/LAVIS).

The file exists so that it can learn where the tower before it is frozen.
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.nn.layer_norm import layer_norm
from vlp_jax.nn.precision import DTYPES


class StateNorm(nn.Module):
    """[..., D] -> [..., D], statistics in float32.

    Attributes:
      norm_eps: 1e-5 in the reference, 1e-6 in transformers.
      dtype: of its result.
    """

    norm_eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        del rng  # nothing is random here
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x.astype(jnp.float32), scale, bias, self.norm_eps).astype(
            DTYPES[self.dtype]
        )

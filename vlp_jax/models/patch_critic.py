"""PatchGAN: a critic that judges every patch of a picture (arXiv:1611.07004; reference:
CompVis/taming-transformers NLayerDiscriminator).

The file exists as the critic of the autoencoders of latent diffusion.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array
from vlp_jax.nn.convolution import convolve
from vlp_jax.nn.precision import DTYPES, pick

_KERNEL = nn.initializers.normal(0.02)


def _around_one(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return 1 + _KERNEL(key, shape, dtype)


class PatchCritic(nn.Module):
    """Pictures float[B, H, W, 3] in [-1, 1] to float32[B, h, w] logits of being real, a place for
    each patch: 70 pixels, and of 30 x 30 places of pictures of 256, with three layers.

    Attributes:
      width: channels of the first layer; each further one has twice as many, up to 8 times.
      layers: of stride 2; one of stride 1 follows, and the logits.
      batch_norm: behind all but the first and the last, as published; without, micro-batches change
        nothing.
      dtype: of the layers before the logits.
    """

    width: Size = 64
    layers: Size = 3
    batch_norm: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        """Runs it; rng: key[B] in training, which normalises by the batch and moves the statistics;
        None takes these.
        """
        dtype, train = pick(DTYPES, self.dtype, "critic.dtype"), rng is not None
        x = x.astype(dtype)
        for n in range(self.layers + 1):
            strides = (2, 2) if n < self.layers else (1, 1)
            normed = self.batch_norm and n > 0
            conv = dict(padding=1, kernel_init=_KERNEL, conv_general_dilated=convolve)
            how = dict(dtype=dtype, use_bias=not normed, **conv)
            features = self.width * min(2**n, 8)
            x = nn.Conv(features, (4, 4), strides, **how, name=f"conv{n + 1}")(x)
            if normed:
                how = dict(momentum=0.9, epsilon=1e-5, dtype=dtype, scale_init=_around_one)
                x = nn.BatchNorm(not train, **how, name=f"norm{n + 1}")(x)
            x = jax.nn.leaky_relu(x, 0.2)
        out = nn.Conv(1, (4, 4), **conv, name="out")
        return out(x.astype(jnp.float32))[..., 0]

"""LPIPS: the maps of VGG16 by which people's judgement of pictures is foretold (arXiv:1801.03924,
version 0.1; reference: the `lpips` package, net="vgg"; convolutions of torchvision's VGG16,
arXiv:1409.1556).

The file exists so that a reconstruction can be held against the published measure of likeness.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array
from vlp_jax.nn.convolution import convolve
from vlp_jax.nn.precision import DTYPES, pick

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and their channels


def unit_map(x: Array) -> Array:
    """Every place's vector over its norm + 1e-10; a zero vector stays zero. [B, h, w, C] ->
    float32[B, h, w, C]
    """
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(-1, keepdims=True)
    return x / (jnp.sqrt(jnp.maximum(square, 1e-30)) + 1e-10)  # the root has no slope at 0


class LPIPS(nn.Module):
    """Pictures [B, H, W, 3], normalised by ImageNet's mean and deviation, to the maps that
    losses/perceptual.py compares; 14,716,160 parameters.

    Attributes:
      image_size: side of the pictures that a method prepares; the network takes any from 16 on.
      dtype: of the convolutions.
    """

    image_size: int = 256
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Array, rng: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """Runs it; rng: nothing is random here.

        Returns:
          (`pooled`; {"maps": five float32[B, h, w, C] at strides 1 to 16, unit vectors times the
          root of the learned weights, which are not negative; "pooled": float32[B, 1472], their
          means over places; "tokens": [B, h w, 512], the last convolution's}).
        """
        del rng
        dtype = pick(DTYPES, self.dtype, "lpips.dtype")
        x, maps = images.astype(dtype), []
        for stage, (count, width) in enumerate(STAGES, start=1):
            x = nn.max_pool(x, (2, 2), (2, 2)) if stage > 1 else x
            for n in range(1, count + 1):
                how = dict(padding=1, dtype=dtype, conv_general_dilated=convolve)
                x = jax.nn.relu(nn.Conv(width, (3, 3), **how, name=f"conv{stage}_{n}")(x))
            head = self.param(f"head{stage}", nn.initializers.ones, (width,))
            maps.append(unit_map(x) * jnp.sqrt(head.astype(jnp.float32)))
        pooled = jnp.concatenate([each.mean((1, 2)) for each in maps], -1)
        tokens = rearrange(x, "b h w c -> b (h w) c")
        return pooled, {"maps": tuple(maps), "pooled": pooled, "tokens": tokens}

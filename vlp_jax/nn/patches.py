"""Pictures to patch tokens, by one matrix product.

A convolution whose stride equals its kernel is a product of flattened patches; written so it is as
fast in the backward pass as in the forward pass on every backend. The file exists for this
equivalence.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array
from vlp_jax.nn.init import uniform


class PatchEmbed(nn.Module):
    """[B, H, W, C] pictures to [B, N, D] tokens in row-major patch order.

    Attributes:
      width: D.
      patch_size: P; H and W must be multiples of it.
      use_bias: the released CLIP towers have none, SigLIP and MAE have one.
    """

    width: int
    patch_size: int
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        height, width, channels = images.shape[1:]
        side = self.patch_size
        if height % side or width % side:
            raise UserError(f"image_size {height}x{width} is not a multiple of patch_size {side}")
        bound = uniform(1 / math.sqrt(channels * side * side))  # torch's Conv2d default
        kernel = self.param("kernel", bound, (side, side, channels, self.width))
        patches = rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=side, q=side)
        flat = rearrange(kernel, "p q c d -> (p q c) d").astype(self.dtype)
        tokens = patches.astype(self.dtype) @ flat
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            tokens = tokens + bias.astype(self.dtype)
        return tokens

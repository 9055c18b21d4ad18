"""Pictures to patch tokens, by one matrix product.

A convolution whose stride equals its kernel is a product of flattened patches; written so it is as
fast in the backward pass as in the forward pass on every backend. The file exists for this
equivalence.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array
from vlp_jax.nn.init import linear_init
from vlp_jax.nn.masks import take_tokens


class PatchEmbed(nn.Module):
    """[B, H, W, C] pictures to [B, N, D] tokens in row-major patch order.

    Attributes:
      width: D.
      patch_size: P; H and W must be multiples of it.
      use_bias: the released CLIP towers have none, SigLIP and MAE have one.
      weight_init: a name of nn/init.py.
    """

    width: int
    patch_size: int
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32
    weight_init: str = "torch"

    @nn.compact
    def __call__(self, images: Array, places: Array | None = None) -> Array:
        """Embeds all patches, or those at places int32[B, N'], rising (their pixels are gathered
        first, so that the others cost nothing and nothing is gathered in the backward pass).
        """
        height, width, channels = images.shape[1:]
        side = self.patch_size
        if height % side or width % side:
            raise UserError(f"image_size {height}x{width} is not a multiple of patch_size {side}")
        start = linear_init(self.weight_init, channels * side * side, self.width)
        kernel = self.param("kernel", start, (side, side, channels, self.width))
        patches = rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=side, q=side)
        if places is not None:
            patches = take_tokens(patches, places)  # [B, N', P P C]
        flat = rearrange(kernel, "p q c d -> (p q c) d").astype(self.dtype)
        tokens = patches.astype(self.dtype) @ flat
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            tokens = tokens + bias.astype(self.dtype)
        return tokens

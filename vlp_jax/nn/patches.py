"""Pictures to patch tokens, by matrix products.

A convolution whose stride equals its kernel is a product of flattened patches; written so it is as
fast in the backward pass as in the forward pass on every backend. The file exists for this
equivalence.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array
from vlp_jax.nn.init import linear_init
from vlp_jax.nn.layer_norm import LayerNorm
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


class PatchStem(nn.Module):
    """[B, H, W, C] pictures to a map [B, H / S, W / S, D] of parts of patches, S the product of the
    sides: the first layers of an hMLP stem (arXiv:2203.09795, section 5), before PatchEmbed makes
    tokens of what is left of the patches.

    All parts are seen by the same weights and none by a neighbour's, so that a thing looks alike
    wherever it lies in a patch, and patches may still be hidden or left out afterwards.

    Attributes:
      width: D of every layer (the paper: a fourth of the transformer's).
      sides: of the squares that each layer takes together; in the paper 4 and 2 of 16 pixels.
      eps: of the LayerNorm after each layer, before GELU; the paper's is BatchNorm.
    """

    width: int
    sides: Sequence[int]
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    weight_init: str = "torch"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images
        for i, side in enumerate(self.sides):
            height = x.shape[1] // side
            embed = PatchEmbed(
                self.width, side, True, self.dtype, self.weight_init, name=f"layer_{i}"
            )
            x = LayerNorm(self.eps, self.dtype, name=f"norm_{i}")(embed(x))
            x = rearrange(nn.gelu(x, approximate=False), "b (h w) d -> b h w d", h=height)
        return x

"""Attention over the places of a map: the transformers of latent diffusion's U-Nets, and the plain
attention of autoencoders and of U-Nets without a context (arXiv:2112.10752; reference:
CompVis/latent-diffusion attention.py, openaimodel.py).

The file exists because both turn maps [B, H, W, C] into tokens and back around layers that know
nothing of pictures.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array
from vlp_jax.nn.attention import SelfAttention
from vlp_jax.nn.cache import States
from vlp_jax.nn.init import torch_linear
from vlp_jax.nn.norms import GroupNorm
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.resblock import conv
from vlp_jax.nn.transformer import StackConfig, run_blocks


class MapAttention(nn.Module):
    """x + out(attention(norm(x))) over all places.

    Attributes:
      num_heads: H; a head has C / H channels. Autoencoders have one.
      groups, eps: of the norm: 1e-6 in autoencoders, 1e-5 in U-Nets.
      zero: the last product starts as 0.
      attention: see nn/attention.py choose.
    """

    num_heads: int
    groups: int = 32
    eps: float = 1e-6
    zero: bool = False
    dtype: jnp.dtype = jnp.float32
    attention: str = "auto"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width, channels = x.shape[1:]
        y = GroupNorm(self.groups, self.eps, dtype=self.dtype, name="norm")(x)
        y = rearrange(y, "b h w c -> b (h w) c")
        inits = torch_linear, nn.initializers.zeros if self.zero else torch_linear
        how = dict(dtype=self.dtype, implementation=self.attention, name="attn")
        y = SelfAttention(self.num_heads, channels // self.num_heads, *inits, **how)(y)
        return x.astype(self.dtype) + rearrange(y, "b (h w) c -> b h w c", h=height, w=width)


class SpatialTransformer(nn.Module):
    """x + out(blocks(in(norm(x)))): transformer blocks over all places that look at a context.

    Attributes:
      depth, num_heads: L and H; a head has C / H channels.
      linear: the maps around the blocks are linear layers of tokens, as in SD 2 and XL; else 1 x 1
        convolutions, which compute the same.
      only_cross: the blocks have no self-attention but a second look at the context.
      groups: of the norm, whose eps is 1e-6.
      dtype, remat, unroll, attention: see nn/transformer.py StackConfig.
    """

    depth: int
    num_heads: int
    linear: bool = False
    only_cross: bool = False
    groups: int = 32
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    def stack_config(self, width: int) -> StackConfig:
        """The blocks for maps of `width` channels."""
        return StackConfig(
            width=width,
            num_layers=self.depth,
            num_heads=self.num_heads,
            hidden=4 * width,
            init="linear",
            dtype=self.dtype,
            remat=self.remat,
            unroll=self.unroll or self.depth == 1,
            attention=self.attention,
            qkv_bias=False,
            gated=True,
            only_cross=self.only_cross,
        )

    @nn.compact
    def __call__(self, x: Array, context: States | None) -> Array:
        """Runs it.

        Args:
          x: float[B, H, W, C].
          context: states float[B, S, D'] and a mask or none.

        Raises:
          UserError: no context.
        """
        if context is None:
            raise UserError("unet: needs a context, the states that its transformers look at")
        height, width, channels = x.shape[1:]
        dtype, zeros = DTYPES[self.dtype], nn.initializers.zeros
        y = GroupNorm(self.groups, 1e-6, dtype=dtype, name="norm")(x)
        how = dict(features=channels, dtype=dtype)
        if not self.linear:
            y = conv(kernel=1, name="conv_in", **how)(y)
        y = rearrange(y, "b h w c -> b (h w) c")
        if self.linear:
            y = nn.Dense(**how, kernel_init=torch_linear, name="linear_in")(y)
        y = run_blocks(self.stack_config(channels), y, context=context)
        if self.linear:
            y = nn.Dense(**how, kernel_init=zeros, name="linear_out")(y)
        y = rearrange(y, "b (h w) c -> b h w c", h=height, w=width)
        if not self.linear:
            y = conv(kernel=1, name="conv_out", zero=True, **how)(y)
        return x.astype(dtype) + y

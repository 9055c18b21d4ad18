"""Residual blocks of convolutions and the changes of resolution around them, as autoencoders and
U-Nets of latent diffusion share them (arXiv:2112.10752; reference: CompVis/latent-diffusion).

The file exists because a picture's coder and its denoiser differ in what they are told of time and
in an eps, and in nothing else here. Maps are [B, H, W, C].
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from vlp_jax.core import rng as rngs
from vlp_jax.core.types import Array
from vlp_jax.nn.convolution import convolve
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.init import torch_linear
from vlp_jax.nn.norms import GroupNorm

SYMMETRIC, BEHIND = ((1, 1), (1, 1)), ((0, 1), (0, 1))  # paddings before a 3 x 3 of stride 2


def conv(features: int, kernel: int, name: str, zero: bool = False, **how: Any) -> nn.Conv:
    """A convolution that keeps the size; zero: it starts as 0; how: further fields."""
    init = nn.initializers.zeros if zero else torch_linear
    how |= dict(conv_general_dilated=convolve)
    return nn.Conv(features, (kernel, kernel), kernel_init=init, name=name, **how)


class Downsample(nn.Module):
    """A 3 x 3 convolution of stride 2: [B, H, W, C] -> [B, H / 2, W / 2, C].

    padding: SYMMETRIC in U-Nets, BEHIND in autoencoders; both give the same size.
    """

    padding: tuple[tuple[int, int], ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        how = dict(strides=(2, 2), padding=self.padding, dtype=self.dtype)
        return conv(x.shape[-1], 3, "conv", **how)(x)


class Upsample(nn.Module):
    """Every place four times, then a 3 x 3 convolution: [B, H, W, C] -> [B, 2 H, 2 W, C]."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return conv(x.shape[-1], 3, "conv", dtype=self.dtype)(doubled(x))


def doubled(x: Array) -> Array:
    """Nearest neighbour: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return repeat(x, "b h w c -> b (h two) (w too) c", two=2, too=2)


def halved(x: Array) -> Array:
    """The mean of 2 x 2 places: [B, H, W, C] -> [B, H / 2, W / 2, C]."""
    return rearrange(x, "b (h two) (w too) c -> b h w (two too) c", two=2, too=2).mean(3)


MOVES = {"": lambda x: x, "up": doubled, "down": halved}


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1 x 1 convolution of x where the channels
    change.

    Attributes:
      features: channels of the result.
      groups, eps: see nn/norms.py.
      film: what is told scales the second norm too; else it is added before it.
      move: `up` or `down`: the resolution changes behind the first activation.
      dropout: rate before the second convolution.
      zero: the second convolution starts as 0.
    """

    features: int
    groups: int = 32
    eps: float = 1e-5
    film: bool = False
    move: str = ""
    dropout: float = 0.0
    zero: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, told: Array | None = None, rng: Array | None = None) -> Array:
        """Runs it.

        Args:
          x: float[B, H, W, C].
          told: float[B, D'] of time and more; None: there is none.
          rng: key[B] for dropout, or None.
        """
        move, how = MOVES[self.move], dict(dtype=self.dtype)
        norm = dict(groups=self.groups, eps=self.eps, silu=True, **how)
        h = move(GroupNorm(**norm, name="norm1")(x))
        h, film = conv(self.features, 3, "conv1", **how)(h), None
        if told is not None:
            told = self._told(told)
            film = jnp.split(told, 2, axis=-1) if self.film else None
            h = h if self.film else h + told[:, None, None]
        h = dropout(GroupNorm(**norm, name="norm2")(h, film), self.dropout, rngs.fold(rng, "drop"))
        h = conv(self.features, 3, "conv2", self.zero, **how)(h)
        x = move(x.astype(self.dtype))
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, "shortcut", **how)(x)
        return x + h

    def _told(self, told: Array) -> Array:
        """[B, D'] -> [B, features], with film twice as many."""
        width = self.features * (1 + self.film)
        dense = nn.Dense(width, dtype=self.dtype, kernel_init=torch_linear, name="time")
        return dense(jax.nn.silu(told))

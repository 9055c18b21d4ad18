"""GroupNorm (arXiv:1803.08494) over maps, with the SiLU that follows it in diffusion networks.

Statistics are in float32 and per channel first, so that no map is reshaped into groups. Norm and
SiLU are one function whose backward pass starts from the map and two numbers of each group; left
alone, automatic differentiation keeps three maps. The file exists for that: these networks are
convolutions and this.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def group_norm(x: Array, scale: Array, bias: Array, groups: int, eps: float, silu: bool) -> Array:
    """(x - mean) / sqrt(var + eps) * scale + bias, mean and var over all places and the channels of
    a group of each example.

    Args:
      x: float[B, ..., C].
      scale, bias: float32[B, C].
      groups: G; group g has the channels from g C / G on.
      silu: followed by y * sigmoid(y).

    Returns:
      float32[B, ..., C].
    """
    return _forward(x, scale, bias, groups, eps, silu)[0]


def _forward(
    x: Array, scale: Array, bias: Array, groups: int, eps: float, silu: bool
) -> tuple[Array, tuple]:
    wide, places = x.astype(jnp.float32), tuple(range(1, x.ndim - 1))
    mean = _over_groups(wide.mean(places), groups)
    squares = jnp.square(wide - _spread(mean, x)).mean(places)
    inverse = jax.lax.rsqrt(_over_groups(squares, groups) + eps)
    out = _affine(x, scale, bias, mean, inverse)[1]
    return (out * jax.nn.sigmoid(out) if silu else out), (x, scale, bias, mean, inverse)


def _backward(groups: int, eps: float, silu: bool, kept: tuple, gradient: Array) -> tuple:
    del eps
    x, scale, _, _, inverse = kept
    normal, out = _affine(*kept)
    if silu:
        share = jax.nn.sigmoid(out)
        gradient = gradient * share * (1 + out * (1 - share))
    places = tuple(range(1, x.ndim - 1))
    count = normal[0, ..., 0].size
    bias_gradient = gradient.sum(places)  # [B, C]
    scale_gradient = (gradient * normal).sum(places)
    mean = _over_groups(bias_gradient * scale, groups) / count
    along = _over_groups(scale_gradient * scale, groups) / count
    dx = gradient * _spread(scale, x) - _spread(mean, x) - normal * _spread(along, x)
    return (dx * _spread(inverse, x)).astype(x.dtype), scale_gradient, bias_gradient


def _affine(
    x: Array, scale: Array, bias: Array, mean: Array, inverse: Array
) -> tuple[Array, Array]:
    """(The normalised map, and scaled and shifted), float32[B, ..., C]."""
    normal = (x.astype(jnp.float32) - _spread(mean, x)) * _spread(inverse, x)
    return normal, normal * _spread(scale, x) + _spread(bias, x)


def _over_groups(channels: Array, groups: int) -> Array:
    """The mean of each channel's group: [B, C] -> [B, C]."""
    means = rearrange(channels, "b (g c) -> b g c", g=groups).mean(-1)
    return repeat(means, "b g -> b (g c)", c=channels.shape[1] // groups)


def _spread(channels: Array, x: Array) -> Array:
    """[B, C] -> [B, 1, ..., C], as many axes as x has."""
    return channels.reshape(len(channels), *(1,) * (x.ndim - 2), -1)


group_norm.defvjp(_forward, _backward)


class GroupNorm(nn.Module):
    """`group_norm` with learned scale and bias; casts its result to `dtype`.

    Attributes:
      groups: G, which divides C.
      eps: 1e-6 in autoencoders and before transformers, 1e-5 in a U-Net's other norms.
      silu: with the activation.
    """

    groups: int
    eps: float
    silu: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, film: tuple[Array, Array] | None = None) -> Array:
        """Runs it.

        Args:
          x: float[B, ..., C].
          film: (a, b), float[B, C] each: the normalised map times 1 + a plus b, before the
            activation (FiLM, arXiv:1709.07871).

        Raises:
          UserError: groups does not divide C.
        """
        channels = x.shape[-1]
        if channels % self.groups:
            raise UserError(f"groups={self.groups} does not divide {channels} channels")
        scale = self.param("scale", nn.initializers.ones, (channels,))[None]
        bias = self.param("bias", nn.initializers.zeros, (channels,))[None]
        if film is not None:
            more, shift = (each.astype(jnp.float32) for each in film)
            scale, bias = scale * (1 + more), bias * (1 + more) + shift
        scale, bias = (jnp.broadcast_to(a, (len(x), channels)) for a in (scale, bias))
        return group_norm(x, scale, bias, self.groups, self.eps, self.silu).astype(self.dtype)

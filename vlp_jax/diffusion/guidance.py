"""Classifier-free guidance (arXiv:2207.12598) and its rescaling (arXiv:2305.08891, 3.4).

The file exists so that every network is called once per step with both of its conditions, laid so
that a row's two inputs stand on one device.
"""

from collections.abc import Callable

import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array

Model = Callable[[Array, Array], Array]


def pairs(negative: Array, positive: Array) -> Array:
    """Each row of one beside that of the other: [B, ...] twice -> [2 B, ...], negative first.

    Worked example: rows n0, n1 and p0, p1 give n0, p0, n1, p1.
    """
    return rearrange(jnp.stack([negative, positive], 1), "b two ... -> (b two) ...")


def guided(model: Model, scale: Array | float, rescale: Array | float = 0.0) -> Model:
    """A network of B rows from one of 2 B rows whose conditions lie as `pairs` lays them.

    Args:
      model: (float32[2 B, ..., C], float32[2 B]) -> [2 B, ..., C or 2 C]; a second half of the
        channels is a learned variance, and that of the positive condition is kept.
      scale: 1 is the positive condition alone, 0 the negative one.
      rescale: share of the result that is given the standard deviation of the positive one's.
    """

    def call(x: Array, time: Array) -> Array:
        out = model(pairs(x, x), jnp.repeat(time, 2))
        out = rearrange(out.astype(jnp.float32), "(b two) ... -> two b ...", two=2)
        (negative, positive), spread = out[..., : x.shape[-1]], out[1, ..., x.shape[-1] :]
        mixed = rescaled(negative + scale * (positive - negative), positive, rescale)
        return jnp.concatenate([mixed, spread], -1)

    return call


def rescaled(mixed: Array, positive: Array, share: Array | float) -> Array:
    """`mixed`, a share of it with the standard deviation that `positive` has in the row."""
    axes = tuple(range(1, mixed.ndim))
    own, wanted = (x.std(axes, keepdims=True) for x in (mixed, positive))
    factor = jnp.where(own > 0, wanted / jnp.where(own > 0, own, 1), 1)
    return share * mixed * factor + (1 - share) * mixed

"""Pixels as a target: patches in and out, per-patch standardisation, the mean over hidden patches
(MAE, arXiv:2111.06377; reference: facebookresearch/mae).

The file exists because three conventions must match released weights: the order of the pixels in a
patch, the unbiased variance, and what the mean runs over.
"""

import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array

EPS = 1e-6  # added to a patch's variance, as in the reference


def patchify(images: Array, patch_size: int) -> Array:
    """[B, H, W, C] -> [B, N, P * P * C], pixels in the order row, column, channel."""
    return rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Array, patch_size: int) -> Array:
    """Inverse of `patchify` for square pictures: [B, N, P * P * C] -> [B, S, S, C]."""
    side = round(patches.shape[1] ** 0.5)
    return rearrange(
        patches, "b (h w) (p q c) -> b (h p) (w q) c", h=side, p=patch_size, q=patch_size
    )


def patch_moments(patches: Array) -> tuple[Array, Array]:
    """(mean, standard deviation), float32[B, N, 1] each, of patches [B, N, P * P * C].

    The variance divides by P * P * C - 1 and EPS is added to it: a blank patch has deviation 1e-3.
    """
    patches = patches.astype(jnp.float32)
    mean = patches.mean(-1, keepdims=True)
    return mean, jnp.sqrt(patches.var(-1, keepdims=True, ddof=1) + EPS)


def patch_error(prediction: Array, target: Array) -> Array:
    """Mean squared error of each patch, in float32: [B, N, P * P * C] twice -> [B, N]."""
    return jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)


def masked_sum(values: Array, hidden: Array) -> Array:
    """Sum over hidden patches: float32[B, N] and bool[B, N] -> float32[B]."""
    return jnp.where(hidden, values, 0).sum(1)

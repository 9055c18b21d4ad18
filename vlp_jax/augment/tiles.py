"""Small squares cut out of pictures, by example and in one gather.

The file exists for the tasks whose trunk sees pieces of a picture: context prediction and jigsaw.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array


def cut(images: Array, corners: Array, side: int) -> Array:
    """Tiles side x side of [B, H, W, C] with upper left corners int32[B, Q, 2] (row, column).

    Returns [B, Q, side, side, C]. Corners must lie within H - side and W - side.
    """

    def one(image: Array, corner: Array) -> Array:
        size = (side, side, image.shape[-1])
        return jax.lax.dynamic_slice(image, (*corner, jnp.int32(0)), size)

    return jax.vmap(jax.vmap(one, (None, 0)))(images, corners)


def standardise(tiles: Array) -> Array:
    """Each tile with mean 0 and deviation 1 per channel, so that its average colour tells nothing.

    float[..., S, S, C] -> the same
    """
    mean = tiles.mean((-3, -2), keepdims=True)
    deviation = tiles.std((-3, -2), keepdims=True)
    return (tiles - mean) / (deviation + 1e-2)


def mosaic(tiles: Array) -> Array:
    """G x G tiles side by side. [B, G * G, S, S, C] -> [B, G * S, G * S, C]"""
    side = round(tiles.shape[1] ** 0.5)
    return rearrange(tiles, "b (g k) h w c -> b (g h) (k w) c", g=side)

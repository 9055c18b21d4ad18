"""Random keys: everything random in a step derives from (seed, step, example), nothing from
history.

One key per example makes dropout, patch dropout and augmentation independent of how the batch is
split over micro-batches and devices, so gradient accumulation repeats the full batch exactly. The
file exists to hold that rule.
"""

import zlib

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


def step_key(seed: int, step: Array | int) -> Array:
    """Returns the key of one training step. key[]"""
    return jax.random.fold_in(jax.random.key(seed), step)


def example_keys(key: Array, batch_size: int) -> Array:
    """Returns one independent key per example of the global batch. key[B]"""
    return row_keys(key, jnp.arange(batch_size))


def row_keys(key: Array, index: Array) -> Array:
    """Returns the key of each row by its number, int32[B]. key[B]"""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fold(keys: Array | None, name: str | int) -> Array | None:
    """Derives keys for one named use from key[B] or key[]; None (deterministic) stays None.

    A number folds to the very key that `jax.random.split` gives at its place, so no key is both
    split and folded by number.
    """
    if keys is None:
        return None
    data = zlib.crc32(name.encode()) if isinstance(name, str) else name
    fold_one = lambda key: jax.random.fold_in(key, data)  # noqa: E731
    return jax.vmap(fold_one)(keys) if keys.ndim else fold_one(keys)


def picture_keys(images: Array) -> Array:
    """Keys for choices in evaluation that every picture fixes by its bytes alone.

    The byte and its place are hashed (MurmurHash3's finaliser), then summed: a sum of the bytes
    themselves is the same for many pictures. uint8[B, H, W, C] -> key[B]
    """
    pixels = images.reshape(len(images), -1).astype(jnp.uint32)
    mixed = pixels + 256 * jnp.arange(pixels.shape[1], dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    mixed = mixed ^ (mixed >> 16)
    sums = mixed.sum(1, dtype=jnp.uint32), (mixed * mixed).sum(1, dtype=jnp.uint32)
    keys = jnp.broadcast_to(fold(jax.random.key(0), "picture"), len(pixels))
    for words in sums:  # 64 bits: of 100,000 pictures two share one of 32
        keys = jax.vmap(jax.random.fold_in)(keys, words)
    return keys

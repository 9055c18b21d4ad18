"""Dropout, stochastic depth and patch dropout with one random key per example (see core/rng.py).

Because example i's mask depends on its own key only, any split of a batch into micro-batches or
over devices draws the same masks. The file exists for that property, which flax's own Dropout does
not have.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.nn.masks import random_subset, take_tokens


def dropout(x: Array, rate: float, rng: Array | None) -> Array:
    """Zeroes entries of x: float[B, ...] with probability `rate` and rescales; rng: key[B] or None
    (identity).
    """
    if rng is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(rng)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def drop_path(x: Array, rate: Array | float, rng: Array | None) -> Array:
    """Stochastic depth: zeroes whole examples of a residual branch (arXiv:1603.09382). x: float[B,
    ...], rng: key[B].
    """
    if rng is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(rng)
    keep = keep.reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def patch_dropout(tokens: Array, rate: float, rng: Array | None) -> Array:
    """Keeps a random subset of max(1, int(N (1 - rate))) tokens per example (FLIP,
    arXiv:2212.00794).

    Args:
      tokens: float[B, N, D], position embeddings added, class token not among them.
      rate: fraction dropped, in [0, 1).
      rng: key[B], or None to keep all.

    Returns:
      float[B, N', D] in their original order; no communication under batch sharding.
    """
    if rng is None or rate == 0.0:
        return tokens
    count = tokens.shape[1]
    keep = max(1, int(count * (1 - rate)))
    return take_tokens(tokens, random_subset(rng, count, keep))

"""What a decoder keeps between its calls: keys and values of the tokens that it has read, and those
of the states that it looks at, as explicit pytrees.

A row's tokens lie in its slots 0, 1, 2, ... without holes: prompts of unequal lengths are padded on
the right, and each row goes on in its own next slot (`Cache.at`), so that a token's slot is its
position. That equals transformers' padding on the left under position ids that count real tokens.
The file exists so that decoding loops can carry, reorder and shard a cache without knowing a model.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.nn.layers import Layers, apart, together


class States(NamedTuple):
    """What cross-attention looks at.

    states: float[B, S, D']. mask: bool[B, S], True where a state may be seen; None: all.
    """

    states: Array
    mask: Array | None = None


class Context(NamedTuple):
    """`States` as the keys and values of every layer, computed once for a whole text.

    key, value: float[L, B, H, S, K]. mask: bool[B, S], or None.
    """

    key: Array
    value: Array
    mask: Array | None = None


@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of self-attention.

    Attributes:
      key, value: float[L, B, H, S, K], S slots of every row; or Layers (nn/layers.py) of float[B,
        H, S, K], for loops whose blocks lie apart: a step then writes its tokens where they lie.
      at: int32[] where all rows are equally long, else int32[B]: slots that hold tokens; the next
        token goes there. at + t <= S is the caller's to keep: writes past the end would land on the
        last slots.
    """

    key: Array | Layers
    value: Array | Layers
    at: Array

    @property
    def slots(self) -> int:
        """S."""
        return jax.tree.leaves(self.key)[0].shape[-2]

    @property
    def stacked(self) -> tuple[Array, Array]:
        """Keys and values as [L, B, H, S, K]."""
        if isinstance(self.key, Layers):
            return together(self.key), together(self.value)
        return self.key, self.value

    def apart(self) -> "Cache":
        """With Layers."""
        return Cache(apart(self.key), apart(self.value), self.at)


jax.tree_util.register_dataclass(Cache, ["key", "value", "at"], [])


def empty(
    num_layers: int, batch_size: int, num_heads: int, slots: int, head_dim: int, dtype: Any
) -> Cache:
    """A cache of `slots` free slots per row."""
    zeros = jnp.zeros((num_layers, batch_size, num_heads, slots, head_dim), dtype)
    return Cache(zeros, zeros, jnp.int32(0))


def write(kept: Array, new: Array, at: Array) -> Array:
    """Puts new: float[..., B, H, t, K] into the slots from `at` (int32[] or int32[B]) on of kept:
    float[..., B, H, S, K].
    """
    put = jax.lax.dynamic_update_slice_in_dim
    new = new.astype(kept.dtype)
    if at.size == 1:
        return put(kept, new, at.reshape(()), kept.ndim - 2)
    rows = kept.ndim - 4
    return jax.vmap(lambda k, n, a: put(k, n, a, k.ndim - 2), (rows, rows, 0), rows)(kept, new, at)


def places(at: Array, count: int) -> Array:
    """The slots of `count` new tokens, which are their positions: int32[1 or B, count]."""
    return jnp.atleast_1d(at)[:, None] + jnp.arange(count)


def visible(at: Array, count: int, slots: int) -> Array:
    """Which slots `count` new tokens see: bool[1 or B, 1, count, slots].

    Worked example: with at = 1 and count = 2 the first token sees slots 0 and 1, the second 0 to 2.
    """
    return jnp.arange(slots) <= places(at, count)[:, None, :, None]


def extend(cache: Cache, key: Array, value: Array, count: int, mask: Array | None = None) -> Cache:
    """The cache with the keys and values of new tokens.

    Args:
      key, value: float[L, B, H, t, K], of a cache of Layers those of all slots, float[L, B, H, S,
        K].
      count: t.
      mask: bool[B, t], True where a new token is real, padded on the right: slots behind a row's
        real tokens are free again. None: all are real.
    """
    at = cache.at + (count if mask is None else mask.sum(1, dtype=jnp.int32))
    if isinstance(cache.key, Layers):
        return Cache(apart(key), apart(value), at)
    return Cache(write(cache.key, key, cache.at), write(cache.value, value, cache.at), at)


def take_rows(kept: Cache | Context, rows: Array) -> Cache | Context:
    """Other rows, or the same ones reordered or several times over (beams); rows: int32[B']."""
    if isinstance(kept, Context):
        mask = None if kept.mask is None else kept.mask[rows]
        return Context(kept.key[:, rows], kept.value[:, rows], mask)
    at = kept.at[rows] if kept.at.ndim else kept.at
    take = lambda a: a[..., rows, :, :, :]  # noqa: E731
    return Cache(*jax.tree.map(take, (kept.key, kept.value)), at)

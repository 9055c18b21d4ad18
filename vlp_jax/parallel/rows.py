"""Rows of other examples, wherever they lie: a ring instead of a gather of everything.

Plain indexing of an array that is split over devices compiles to an all-gather of the whole of it.
Here every device's block travels once around and each device keeps the rows it wants: as many
bytes on the wires, two blocks in memory. The file exists so that hard negatives (BLIP, ALBEF) can
fetch token states of 2,880 pictures.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.parallel.collectives import SPLIT, BatchAxes, over_batch


def take_rows(tree: Any, picks: Array) -> Any:
    """Rows of a tree of [B, ...] by their numbers in the whole batch.

    Gradients flow to the rows that were taken. Under a mesh both arguments are split over the batch
    axes, and so is the result.

    Args:
      tree: arrays of [B, ...].
      picks: int32[b, ...], in [0, B).

    Returns:
      the tree with [*picks.shape, ...] in place of [B, ...].
    """

    def run(axes: BatchAxes, tree: Any, picks: Array) -> Any:
        if axes.size == 1:
            return jax.tree.map(lambda rows: rows[picks], tree)
        length, here = len(jax.tree.leaves(tree)[0]), axes.index()

        def turn(carry: tuple, number: Array) -> tuple:
            block, found = carry
            mine = picks // length == (here + number) % axes.size
            at = jnp.where(mine, picks % length, 0)

            def put(old: Array, rows: Array) -> Array:
                wanted = mine.reshape(mine.shape + (1,) * (rows.ndim - 1))
                return jnp.where(wanted, rows[at], old)

            found = jax.tree.map(put, found, block)
            return (jax.tree.map(axes.pass_on, block), found), None

        empty = jax.tree.map(lambda rows: jnp.zeros(picks.shape + rows.shape[1:], rows.dtype), tree)
        return jax.lax.scan(turn, (tree, empty), jnp.arange(axes.size))[0][1]

    return over_batch(run, (SPLIT, SPLIT), SPLIT)(tree, picks)

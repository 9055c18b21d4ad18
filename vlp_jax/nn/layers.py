"""What a stack of blocks holds, layer by layer.

Weights lie stacked as [L, ...] (nn/transformer.py). A loop that writes tokens reads all of them for
each, and XLA's CPU backend copies every layer's slice of the stack before it multiplies with it:
three times the memory traffic, or more (experiments/benchmarks/README.md, P9). Stacked again inside
the loop and unrolled, slices and stack cancel out. The file exists for such loops.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.types import Params


class Layers(NamedTuple):
    """A tree of [L, ...] as L trees of [...]."""

    trees: tuple[Any, ...]


def apart(stacked: Any) -> Layers:
    """Layers of a tree of [L, ...]."""
    count = len(jax.tree.leaves(stacked)[0])
    return Layers(tuple(jax.tree.map(lambda leaf: leaf[i], stacked) for i in range(count)))


def together(layers: Layers) -> Any:
    """The tree of [L, ...]; to be called where it is read, inside the loop."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers.trees)


def blocks_apart(params: Params) -> Params:
    """A network's parameters with its `blocks` as Layers, on the host's own device: where memory's
    alignment allows it these are the very bytes."""
    views = jax.tree.map(np.asarray, params["blocks"])
    return {**params, "blocks": jax.device_put(apart(views))}

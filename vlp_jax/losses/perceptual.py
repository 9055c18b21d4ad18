"""How different two pictures look: squared differences of a network's maps (LPIPS,
arXiv:1801.03924, equation 1).

A network's maps have unit vectors at every place, LPIPS' own times the root of its learned weights,
so that one sum serves it and any other. The file exists as that sum.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from vlp_jax.core.types import Array


def map_distance(maps: Sequence[Array], others: Sequence[Array]) -> Array:
    """Over maps the sum of the mean over places of the squared difference's sum over channels.

    maps, others: float[B, h, w, C] each -> float32[B]
    """
    squares = (jnp.square((a - b).astype(jnp.float32)) for a, b in zip(maps, others, strict=True))
    return sum(square.sum(-1).mean((1, 2)) for square in squares)

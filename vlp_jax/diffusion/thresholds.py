"""Predicted pictures kept in range (static: arXiv:2006.11239; dynamic: Imagen, arXiv:2205.11487,
section 2.3).

For pixels; latents have no range. The file exists to hold both rules beside each other.
"""

from typing import Literal

import jax.numpy as jnp

from vlp_jax.core.types import Array

Threshold = Literal["none", "static", "dynamic"]


def static(x0: Array, most: Array | float = 1.0) -> Array:
    """Cut to [-most, most]."""
    return jnp.clip(x0, -most, most)


def dynamic(x0: Array, quantile: Array | float = 0.995, most: Array | float = 1.0) -> Array:
    """Cut to [-s, s] and divided by s, the quantile of the row's |x0|, kept within 1 and `most`.

    Worked example: [0.5, -2, 1] at quantile 1 is [0.25, -1, 0.5] with most >= 2, and [0.5, -1, 1]
    with most = 1, where it is the static rule.
    """
    flat = jnp.abs(x0).reshape(len(x0), -1)
    s = jnp.clip(jnp.quantile(flat, quantile, axis=1), 1, most)
    s = s.reshape(-1, *[1] * (x0.ndim - 1))
    return jnp.clip(x0, -s, s) / s

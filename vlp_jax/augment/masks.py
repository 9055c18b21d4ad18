"""Random masks to paint over: strokes and boxes (LaMa, arXiv:2109.07161, appendix; reference:
advimman/lama, its medium masks for pictures of 256), or all of the picture, as Stable Diffusion's
inpainting was trained.

The file exists so that masks are drawn per example on the device, by the example's key.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.types import Array

STROKES, TURNS, BOXES = 5, 5, 4  # at most
LENGTH, WIDTH, ANGLE = 200 / 256, 100 / 256, 4.0  # of a side; radians
LEAST_LENGTH, LEAST_WIDTH = 10 / 256, 5 / 256
BOX, MARGIN = (30 / 256, 150 / 256), 10 / 256


def random_masks(rng: Array, size: int, whole: float = 0.25) -> Array:
    """Masks, 1 where it is to be painted over.

    Args:
      rng: key[B].
      size: S, pixels of a side.
      whole: share of the examples that are masked everywhere; of the others one half has strokes,
        the other boxes.

    Returns:
      float32[B, S, S, 1]
    """

    def one(key: Array) -> Array:
        kind = jax.random.uniform(rngs.fold(key, "kind"))
        drawn = jax.lax.cond(
            kind < (1 + whole) / 2,
            lambda: _strokes(rngs.fold(key, "strokes"), size),
            lambda: _boxes(rngs.fold(key, "boxes"), size),
        )
        return jnp.where(kind < whole, True, drawn)

    return jax.vmap(one)(rng)[..., None].astype(jnp.float32)


def _strokes(key: Array, size: int) -> Array:
    """1 to 5 lines of 1 to 5 straight pieces, which turn back and forth: bool[S, S]."""
    rows, columns = jnp.meshgrid(*[jnp.arange(size) + 0.5] * 2, indexing="ij")
    places = jnp.stack([rows, columns], -1) / size  # [S, S, 2]

    def piece(carry: tuple, number: Array) -> tuple[tuple, None]:
        mask, at, key, turns = carry
        key, *keys = jax.random.split(key, 5)
        angle = 0.01 + jax.random.uniform(keys[0]) * ANGLE
        angle = jnp.where(number % 2 == 0, 2 * jnp.pi - angle, angle)
        length = LEAST_LENGTH + jax.random.uniform(keys[1]) * LENGTH
        width = LEAST_WIDTH + jax.random.uniform(keys[2]) * WIDTH
        end = jnp.clip(at + length * jnp.stack([jnp.cos(angle), jnp.sin(angle)]), 0, 1)
        near = _distance(places, at, end) <= width / 2
        return (mask | (near & (number < turns)), end, key, turns), None

    def stroke(mask: Array, key: Array) -> tuple[Array, None]:
        keys = jax.random.split(key, 3)
        start, turns = jax.random.uniform(keys[0], (2,)), jax.random.randint(keys[1], (), 1, 6)
        (mask, *_), _ = jax.lax.scan(piece, (mask, start, keys[2], turns), jnp.arange(TURNS))
        return mask, None

    count = jax.random.randint(rngs.fold(key, "count"), (), 1, STROKES + 1)
    blank = jnp.zeros((size, size), bool)
    keep = lambda mask, given: (jnp.where(given[1] < count, stroke(mask, given[0])[0], mask), None)  # noqa: E731
    return jax.lax.scan(keep, blank, (jax.random.split(key, STROKES), jnp.arange(STROKES)))[0]


def _distance(places: Array, start: Array, end: Array) -> Array:
    """Of places float32[S, S, 2] from a straight piece, in sides."""
    along = end - start
    share = ((places - start) @ along) / jnp.maximum(along @ along, 1e-12)
    nearest = start + jnp.clip(share, 0, 1)[..., None] * along
    return jnp.linalg.norm(places - nearest, axis=-1)


def _boxes(key: Array, size: int) -> Array:
    """1 to 4 boxes inside a margin: bool[S, S]."""
    keys = jax.random.split(key, 3)
    sides = jax.random.uniform(keys[0], (BOXES, 2), minval=BOX[0], maxval=BOX[1])
    low = MARGIN + jax.random.uniform(keys[1], (BOXES, 2)) * (1 - 2 * MARGIN - sides)
    count = jax.random.randint(keys[2], (), 1, BOXES + 1)
    at = (jnp.arange(size) + 0.5) / size
    inside = (at >= low[..., None]) & (at < (low + sides)[..., None])  # [boxes, 2, S]
    each = inside[:, 0, :, None] & inside[:, 1, None, :]
    return (each & (jnp.arange(BOXES) < count)[:, None, None]).any(0)

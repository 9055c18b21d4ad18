"""Colour changes of one picture: brightness, contrast, saturation and hue in random order, and
grey (SimCLR, arXiv:2002.05709 appendix A; definitions as in PIL and torchvision).

The first three move a picture towards black, its mean grey or its own grey, so one blend serves
all; hue, the costly one, is computed once, with three slots for blends before and three after it.
The file exists to hold that arrangement. Pictures are float32[H, W, 3] in [0, 255]; every step
clips.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array

BRIGHTNESS, CONTRAST, SATURATION = range(3)


class Jitter(NamedTuple):
    """The spread of each change: factors from U(max(0, 1 - x), 1 + x), hue from U(-x, x) turns.

    additive: brightness adds U(-x, x) of the range instead (SimCLR v1).
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    additive: bool = False


class Draw(NamedTuple):
    """What one picture gets.

    order: int32[3], the blends first to last; place: int32[], how many of them precede the hue;
    factor: float32[3] of brightness, contrast and saturation (an additive brightness: its share of
    the range); hue: float32[], turns.
    """

    order: Array
    place: Array
    factor: Array
    hue: Array


def grey(image: Array) -> Array:
    """ITU-R 601 luma as PIL's "L", kept as [H, W, 1]."""
    return image @ jnp.array([[0.299], [0.587], [0.114]], jnp.float32)


def shift_hue(image: Array, turns: Array) -> Array:
    """Turns the hue of HSV, which leaves the largest and the smallest channel as they are."""
    top, low = image.max(-1, keepdims=True), image.min(-1, keepdims=True)
    spread = top - low
    safe = jnp.where(spread > 0, spread, 1.0)
    red, green, blue = jnp.split(image, 3, axis=-1)
    sixth = jnp.where(
        top == red,
        (green - blue) / safe,
        jnp.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )  # [H, W, 1], hue in sixths of a turn
    place = (sixth + 6 * turns + jnp.array([5.0, 3.0, 1.0])) % 6  # [H, W, 3]
    return top - spread * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def draw_jitter(key: Array, spread: Jitter) -> Draw:
    """The random numbers of one picture, all 24 orders alike; key: key[]."""
    keys = jax.random.split(key, 4)
    most = jnp.array(spread[:3], jnp.float32)
    low = jnp.maximum(0.0, 1 - most)
    if spread.additive:
        low, most = low.at[BRIGHTNESS].set(-spread.brightness), most.at[BRIGHTNESS].add(-1)
    factor = jax.random.uniform(keys[0], (3,), minval=low, maxval=1 + most)
    hue = jax.random.uniform(keys[1], (), minval=-spread.hue, maxval=spread.hue)
    order = jax.random.permutation(keys[2], 3)
    return Draw(order, jax.random.randint(keys[3], (), 0, 4), factor, hue)


def _blend(image: Array, operation: Array, factor: Array, additive: bool) -> Array:
    own, value = grey(image), factor[operation]
    target = jnp.where(operation == SATURATION, own, 0.0)
    target = jnp.where(operation == CONTRAST, own.mean(), target)
    changed = value * image + (1 - value) * target
    if additive:
        changed = jnp.where(operation == BRIGHTNESS, image + 255 * value, changed)
    return jnp.clip(changed, 0, 255)


def jitter(image: Array, draw: Draw, spread: Jitter) -> Array:
    """The drawn changes in the drawn order. A change whose spread is 0 is none."""

    def blends(image: Array, live: Array) -> Array:
        for slot in range(3):
            changed = _blend(image, draw.order[slot], draw.factor, spread.additive)
            image = jnp.where(live[slot], changed, image)
        return image

    if not spread.hue:
        return blends(image, jnp.ones(3, bool))
    before = jnp.arange(3) < draw.place
    return blends(shift_hue(blends(image, before), draw.hue), ~before)

"""Pictures on the device: uint8 to normalised float, and augmentation vectorised over the batch.

One key per example (core/rng.py), one fused program, no Python per picture. The file exists so that
pictures can travel as bytes, a quarter of the bandwidth of float32.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from vlp_jax.augment import colour, filters
from vlp_jax.core import rng as rngs
from vlp_jax.core.schema import Amount, Chance, Size
from vlp_jax.core.types import Array

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP preprocessing
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Augment:
    """What happens to a training picture on the device, in this order; the defaults change nothing.

    Attributes:
      crop_scale: (low, high) share of the area kept by a random resized crop; (1, 1) is off.
      crop_ratio: (low, high) of its aspect ratio; crop_attempts: see augment/filters.py draw_crop.
      flip, rotate: probability of a horizontal flip, and of 1, 2 or 3 quarter turns.
      brightness, contrast, saturation: each factor is drawn from U(1 - x, 1 + x), not below 0.
      hue: turns, drawn from U(-x, x). These four come in random order.
      jitter: probability that the four happen at all.
      brightness_adds: brightness adds U(-x, x) of the range instead (SimCLR v1).
      grey: probability of dropping colour.
      blur: probability of a Gaussian blur; blur_sigma: (low, high) pixels.
      sobel: probability of showing edges.
      noise: standard deviation of Gaussian noise, as a share of the range.
      cutout: side of a black square, as a share of the picture's.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Chance = 0.0
    brightness: Amount = 0.0
    contrast: Amount = 0.0
    saturation: Amount = 0.0
    grey: Chance = 0.0
    hue: Amount = 0.0
    jitter: Chance = 1.0
    brightness_adds: bool = False
    crop_attempts: Size = 1
    rotate: Chance = 0.0
    blur: Chance = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    sobel: Chance = 0.0
    noise: Amount = 0.0
    cutout: Chance = 0.0


def normalise(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """uint8[B, H, W, 3] or float in [0, 255] -> float32[B, H, W, 3], (x / 255 - mean) / std per
    channel.
    """
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return images.astype(jnp.float32) * scale - shift


def _sometimes(key: Array, chance: float, changed: Array, image: Array) -> Array:
    return changed if chance >= 1 else jnp.where(jax.random.bernoulli(key, chance), changed, image)


def _geometry(image: Array, aspect: Array, keys: Array, key: Array, c: Augment, size: int) -> Array:
    if c.crop_scale != (1.0, 1.0):
        box = filters.draw_crop(keys[0], c.crop_scale, c.crop_ratio, c.crop_attempts, aspect)
        image = filters.crop(image, *box, size)
    elif len(image) != size:
        image = filters.crop(image, *filters.central(aspect), size)
    if c.flip:
        image = _sometimes(keys[1], c.flip, image[:, ::-1], image)
    if c.rotate:
        turns = jax.random.randint(rngs.fold(key, "turns"), (), 1, 4)
        turned = filters.quarter_turn(image, turns)
        image = _sometimes(rngs.fold(key, "rotate"), c.rotate, turned, image)
    return image


def _colour(image: Array, keys: Array, c: Augment) -> Array:
    spread = colour.Jitter(c.brightness, c.contrast, c.saturation, c.hue, c.brightness_adds)
    if any(spread[:4]):
        changed = colour.jitter(image, colour.draw_jitter(keys[2], spread), spread)
        image = _sometimes(keys[3], c.jitter, changed, image)
    return _sometimes(keys[5], c.grey, colour.grey(image), image) if c.grey else image


def _texture(image: Array, key: Array, c: Augment) -> Array:
    fold = lambda name: rngs.fold(key, name)  # noqa: E731
    if c.blur:
        low, high = c.blur_sigma
        sigma = jax.random.uniform(fold("sigma"), (), minval=low, maxval=high)
        image = _sometimes(fold("blur"), c.blur, filters.blur(image, sigma), image)
    if c.sobel:
        image = _sometimes(fold("sobel"), c.sobel, filters.edges(image), image)
    if c.noise:
        image = image + 255 * c.noise * jax.random.normal(fold("noise"), image.shape)
    return filters.cutout(image, fold("cutout"), c.cutout) if c.cutout else image


def _augment_one(image: Array, aspect: Array, key: Array, config: Augment, size: int) -> Array:
    keys = jax.random.split(key, 6)
    image = _geometry(image, aspect, keys, key, config, size)
    image = _texture(_colour(image, keys, config), key, config)
    return jnp.clip(image, 0, 255)


def augment(
    images: Array,
    config: Augment,
    rng: Array | None,
    size: int = 0,
    aspect: Array | float = 1.0,
) -> Array:
    """Augments uint8[B, H, H, 3] pictures.

    Args:
      images: whole pictures, squashed to squares.
      config: what happens.
      rng: key[B]; None changes nothing but the size, to which it cuts the central square.
      size: S, pixels of a side that leave; 0: as they came.
      aspect: float32[B], width over height of the pictures before they were squashed, so that a
        crop has the area and the shape of one from the picture itself; 1: they were squares.

    Returns:
      float32[B, S, S, 3] in [0, 255] (or the input when there is nothing to do).
    """
    size = size or images.shape[1]
    if (rng is None or config == Augment()) and size == images.shape[1]:
        return images
    pixels, aspect = images.astype(jnp.float32), jnp.broadcast_to(aspect, len(images))
    if rng is None:
        cut = lambda image, aspect: filters.crop(image, *filters.central(aspect), size)  # noqa: E731
        return jax.vmap(cut)(pixels, aspect)
    one = functools.partial(_augment_one, config=config, size=size)
    return jax.vmap(one)(pixels, aspect, rngs.fold(rng, "augment"))

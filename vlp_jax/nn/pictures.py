"""Pictures on the device: uint8 to normalised float, and augmentation vectorised over the batch.

One key per example (core/rng.py), one fused program, no Python per picture. The file exists so that
pictures can travel as bytes, a quarter of the bandwidth of float32.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.types import Array

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP preprocessing
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Augment:
    """What happens to a training picture on the device; the defaults change nothing.

    Attributes:
      crop_scale: (low, high) share of the area kept by a random resized crop; (1, 1) is off.
      crop_ratio: (low, high) of its aspect ratio.
      flip: probability of a horizontal flip.
      brightness, contrast, saturation: each factor is drawn from U(1 - x, 1 + x).
      grey: probability of dropping colour.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0


def normalise(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """uint8[B, H, W, 3] or float in [0, 255] -> float32[B, H, W, 3], (x / 255 - mean) / std per
    channel.
    """
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return images.astype(jnp.float32) * scale - shift


def _random_crop(image: Array, key: Array, config: Augment) -> Array:
    """Random resized crop of one [H, W, 3] picture back to its own size, bicubic with
    antialiasing.
    """
    height, width = image.shape[:2]
    keys = jax.random.split(key, 4)
    area = jax.random.uniform(keys[0], (), minval=config.crop_scale[0], maxval=config.crop_scale[1])
    low, high = jnp.log(jnp.asarray(config.crop_ratio))
    ratio = jnp.exp(jax.random.uniform(keys[1], (), minval=low, maxval=high))
    share = jnp.minimum(1.0, jnp.sqrt(area * jnp.stack([1 / ratio, ratio])))  # of height, width
    size = jnp.array([height, width], jnp.float32)
    start = jnp.stack([jax.random.uniform(k) for k in keys[2:]]) * (1 - share) * size
    out = jax.image.scale_and_translate(
        image, image.shape, (0, 1), 1 / share, -start / share, "cubic"
    )
    return jnp.clip(out, 0, 255)


def _factor(key: Array, spread: float) -> Array:
    return jax.random.uniform(key, (), minval=1 - spread, maxval=1 + spread)


def _grey(image: Array) -> Array:
    """ITU-R 601 luma as PIL's "L", kept as [H, W, 1]."""
    return image @ jnp.array([[0.299], [0.587], [0.114]], jnp.float32)


def _augment_one(image: Array, key: Array, config: Augment) -> Array:
    keys = jax.random.split(key, 6)
    if config.crop_scale != (1.0, 1.0):
        image = _random_crop(image, keys[0], config)
    if config.flip:
        image = jnp.where(jax.random.bernoulli(keys[1], config.flip), image[:, ::-1], image)
    if config.brightness:
        image = image * _factor(keys[2], config.brightness)
    if config.contrast:
        image = (image - _grey(image).mean()) * _factor(keys[3], config.contrast) + _grey(
            image
        ).mean()
    if config.saturation:
        grey = _grey(image)
        image = (image - grey) * _factor(keys[4], config.saturation) + grey
    if config.grey:
        image = jnp.where(jax.random.bernoulli(keys[5], config.grey), _grey(image), image)
    return jnp.clip(image, 0, 255)


def augment(images: Array, config: Augment, rng: Array | None) -> Array:
    """Augments uint8[B, H, W, 3] pictures; rng: key[B], None returns them unchanged.

    Returns:
      float32[B, H, W, 3] in [0, 255] (or the input when there is nothing to do).
    """
    if rng is None or config == Augment():
        return images
    keys = rngs.fold(rng, "augment")
    return jax.vmap(_augment_one, (0, 0, None))(images.astype(jnp.float32), keys, config)

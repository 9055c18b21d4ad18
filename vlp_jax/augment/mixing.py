"""Mixup (arXiv:1710.09412), CutMix (arXiv:1905.04899) and random erasing (arXiv:1708.04896) on
normalised pictures.

Partners are half a batch apart, so the pairs of a micro-batch of even size are those of the whole
batch; every example draws its own share and box from its own key (timm's `elem` mode). The file
exists because these three need the finished batch, on the device.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Amount, Chance
from vlp_jax.core.types import Array

ERASE_AREA = (0.02, 1 / 3)  # share of the picture, as published
ERASE_RATIO = (0.3, 1 / 0.3)  # height / width, drawn log-uniformly


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How pictures are mixed; the defaults change nothing.

    Attributes:
      mixup, cutmix: alpha of the Beta(alpha, alpha) that the own share is drawn from; 0 is off.
      prob: probability that an example is mixed.
      switch: probability of CutMix where both are on.
      erase: probability that a box is replaced by noise.
    """

    mixup: Amount = 0.0
    cutmix: Amount = 0.0
    prob: Chance = 1.0
    switch: Chance = 0.5
    erase: Chance = 0.0


def _box(keys: Array, size: Array, shape: tuple[int, ...], centred: bool) -> Array:
    """bool[H, W]: a box of `size` float[2] at a uniform place, inside; or, centred, cut at the
    border as in CutMix.
    """
    places = []
    for axis in (0, 1):
        pixels, side = jnp.arange(shape[axis]), jnp.floor(size[axis])
        uniform = jax.random.uniform(keys[axis])
        if centred:
            start = jnp.floor(uniform * shape[axis]) - side // 2
            side = side // 2 * 2  # as the reference: half to both sides
        else:
            start = jnp.floor(uniform * (shape[axis] - side + 1))
        places.append((pixels >= start) & (pixels < start + side))
    return places[0][:, None] & places[1][None, :]


def _share(key: Array, how: Mixing, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """(float[H, W, 1] weight of the own pixels, float[] share of the own target)."""
    keys = jax.random.split(key, 6)
    rate = how.switch if how.mixup and how.cutmix else float(how.cutmix > 0)
    cut = jax.random.bernoulli(keys[0], rate)
    alpha = jnp.where(cut, how.cutmix or 1.0, how.mixup or 1.0)
    own = jax.random.beta(keys[1], alpha, alpha)
    own = jnp.where(jax.random.bernoulli(keys[2], how.prob), own, 1.0)
    size = jnp.sqrt(1 - own) * jnp.asarray(shape[:2], jnp.float32)
    outside = 1.0 - _box(keys[3:5], size, shape, centred=True)
    weight = jnp.where(cut, outside, own)[..., None]  # [H, W, 1]
    return weight, weight.mean()


def mix(images: Array, targets: Array, how: Mixing, rng: Array | None) -> tuple[Array, Array]:
    """Mixes every example with the one half a batch further on.

    Args:
      images: float32[B, H, W, 3]; targets: float32[B, C], class probabilities.
      rng: key[B]; None changes nothing.

    Returns:
      both, mixed: with share s of an example's pixels (CutMix: area) its own, its target is
      s * own + (1 - s) * partner's.

    Raises:
      UserError: B is odd: the partners of a micro-batch would not be those of the whole batch.
    """
    if rng is None or not (how.mixup or how.cutmix):
        return images, targets
    if len(images) % 2:
        what = "mixup and cutmix pair pictures, so batch_size / accumulate must be even"
        raise UserError(f"{what}, not {len(images)}")
    draw = jax.vmap(_share, (0, None, None))
    weight, share = draw(rngs.fold(rng, "mix"), how, images.shape[1:])  # [B, H, W, 1], [B]
    half = images.shape[0] // 2
    partner, other = jnp.roll(images, -half, 0), jnp.roll(targets, -half, 0)
    share = share[:, None]
    return weight * images + (1 - weight) * partner, share * targets + (1 - share) * other


def _erase_one(image: Array, key: Array, rate: float) -> Array:
    keys, shape = jax.random.split(key, 6), image.shape
    area = jax.random.uniform(keys[0], minval=ERASE_AREA[0], maxval=ERASE_AREA[1])
    low, high = jnp.log(jnp.asarray(ERASE_RATIO))
    ratio = jnp.exp(jax.random.uniform(keys[1], minval=low, maxval=high))
    sides = jnp.asarray(shape[:2], jnp.float32)
    size = jnp.sqrt(area * sides.prod() * jnp.stack([ratio, 1 / ratio]))
    box = _box(keys[2:4], jnp.clip(jnp.round(size), 1, sides), shape, centred=False)
    hit = box & jax.random.bernoulli(keys[4], rate)
    return jnp.where(hit[..., None], jax.random.normal(keys[5], shape), image)


def erase(images: Array, rate: float, rng: Array | None) -> Array:
    """Replaces a box of some float32[B, H, W, 3] pictures by noise N(0, 1) for every pixel; one
    draw, cut to the picture, where the reference draws up to ten until a box fits.
    """
    if rng is None or not rate:
        return images
    return jax.vmap(_erase_one, (0, 0, None))(images, rngs.fold(rng, "erase"), rate)

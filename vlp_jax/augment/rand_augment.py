"""RandAugment (arXiv:1909.13719) on the device: a few random operations of PIL's on every picture.

Operations, ranges and "increasing" magnitudes are those of the recipes that write
`rand-m9-mstd0.5-inc1` (MAE's fine-tuning, bicubic); each equals PIL's to one grey level. Under vmap
a `lax.switch` computes its branches for the whole batch and selects, so the five warps share one
branch. The file exists because on the host this costs more than the training step of a small model.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Amount, Chance, Range
from vlp_jax.core.types import Array

LEVELS = 10.0  # magnitudes run from 0 to this


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """How much happens to a picture; the defaults change nothing.

    Attributes:
      num_ops: operations drawn for a picture, one after the other, with repetition.
      magnitude, std: mean and standard deviation of an operation's strength, in [0, 10]; magnitude
        0 is off.
      prob: probability that a drawn operation is applied.
      ops: names of the operations, one may stand several times; () is all of COLOURS and WARPS.
        `identity` is one more.
      translate: up to this share of the side.
    """

    num_ops: int = 2
    magnitude: Annotated[float, Range(0, 10)] = 0.0
    std: Amount = 0.5
    prob: Chance = 0.5
    ops: tuple[str, ...] = ()
    translate: Chance = 0.45

    def __post_init__(self) -> None:
        """Raises UserError for an unknown operation."""
        for name in self.ops:
            if name not in NAMES:
                raise UserError(f"rand_augment.ops: unknown {name!r}{nearest(name, NAMES)}")


def _luma(image: Array) -> Array:
    """PIL's convert("L"), 16-bit fixed point with rounding. [H, W, 1]"""
    weights = jnp.array([[19595.0], [38470.0], [7471.0]]) / 65536
    return jnp.floor(jnp.matmul(image, weights, precision=jax.lax.Precision.HIGHEST) + 0.5)


def _blend(base: Array, image: Array, level: Array, sign: Array) -> Array:
    """Image.blend at the factor of a level: base at 0, the picture at 1, beyond it above."""
    factor = jnp.maximum(0.1, 1 + sign * 0.9 * level / LEVELS)
    return jnp.floor(jnp.clip(base + factor * (image - base), 0, 255))


def identity(image: Array, level: Array, sign: Array) -> Array:
    """The picture."""
    return image


def auto_contrast(image: Array, level: Array, sign: Array) -> Array:
    """Stretches every channel to 0..255."""
    low, high = image.min((0, 1)), image.max((0, 1))
    scale = 255 / jnp.maximum(high - low, 1)
    stretched = jnp.floor((image - low) * scale + 1e-3)  # exact products must not fall below
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), image)


def equalize(image: Array, level: Array, sign: Array) -> Array:
    """Flattens every channel's histogram."""

    def one(channel: Array) -> Array:
        values = channel.astype(jnp.int32)
        count = jnp.zeros(256, jnp.int32).at[values.ravel()].add(1)
        step = (values.size - count[values.max()]) // 255
        before = jnp.cumsum(count) - count
        table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[values], values).astype(channel.dtype)

    return jax.vmap(one, -1, -1)(image)


def invert(image: Array, level: Array, sign: Array) -> Array:
    """255 - x."""
    return 255 - image


def posterize(image: Array, level: Array, sign: Array) -> Array:
    """Keeps the 4 to 1 highest bits; at level 10 none, which is black, as in the recipe."""
    width = 2.0 ** (4 + jnp.floor(level / LEVELS * 4))
    return jnp.floor(image / width) * width


def solarize(image: Array, level: Array, sign: Array) -> Array:
    """Inverts values from a threshold on, which falls from 256 to 0."""
    return jnp.where(image < 256 - jnp.floor(level / LEVELS * 256), image, 255 - image)


def solarize_add(image: Array, level: Array, sign: Array) -> Array:
    """Adds up to 110 to values below 128."""
    added = jnp.minimum(255, image + jnp.floor(level / LEVELS * 110))
    return jnp.where(image < 128, added, image)


def color(image: Array, level: Array, sign: Array) -> Array:
    """Less or more saturated."""
    return _blend(_luma(image), image, level, sign)


def contrast(image: Array, level: Array, sign: Array) -> Array:
    """Towards or away from the mean grey."""
    return _blend(jnp.floor(_luma(image).mean() + 0.5), image, level, sign)


def brightness(image: Array, level: Array, sign: Array) -> Array:
    """Darker or brighter."""
    return _blend(jnp.zeros_like(image), image, level, sign)


def sharpness(image: Array, level: Array, sign: Array) -> Array:
    """Towards or away from a smoothed picture, whose border is the picture's own."""
    sides = [image[y : y + h, x : x + w] for y, x, h, w in _windows(image.shape)]
    smooth = jnp.floor((sum(sides) + 4 * image[1:-1, 1:-1]) / 13 + 0.5)
    return _blend(image.at[1:-1, 1:-1].set(smooth), image, level, sign)


def _windows(shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    return [(y, x, shape[0] - 2, shape[1] - 2) for y in range(3) for x in range(3)]


def rotation(level: Array, sign: Array, size: tuple[int, int]) -> Array:
    """Up to 30 degrees around the centre."""
    angle = sign * jnp.radians(30 * level / LEVELS)
    (cos, sin), (y, x) = (jnp.cos(angle), jnp.sin(angle)), (size[0] / 2, size[1] / 2)
    return jnp.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])


def shear_x(level: Array, sign: Array, size: tuple[int, int]) -> Array:
    """Up to 0.3."""
    return jnp.array([1, 0, 0, 0, 1, 0.0]).at[1].set(sign * 0.3 * level / LEVELS)


def shear_y(level: Array, sign: Array, size: tuple[int, int]) -> Array:
    """Up to 0.3."""
    return jnp.array([1, 0, 0, 0, 1, 0.0]).at[3].set(sign * 0.3 * level / LEVELS)


def translate_x(level: Array, sign: Array, size: tuple[int, int], reach: float = 0.45) -> Array:
    """Up to `reach` of the width."""
    return jnp.array([1, 0, 0, 0, 1, 0.0]).at[2].set(sign * reach * level / LEVELS * size[1])


def translate_y(level: Array, sign: Array, size: tuple[int, int], reach: float = 0.45) -> Array:
    """Up to `reach` of the height."""
    return jnp.array([1, 0, 0, 0, 1, 0.0]).at[5].set(sign * reach * level / LEVELS * size[0])


def _cubic(share: Array) -> Array:
    """Weights of the four pixels around a place `share` in [0, 1) past the second: Keys' kernel
    with a = -1, which PIL's transforms have (its resize has -0.5). [4, ..., 1]
    """
    near, far = jnp.stack([share, 1 - share]), jnp.stack([1 - share, share])
    inner, outer = 1 + near * near * (near - 2), -near * far * far
    return jnp.stack([outer[0], inner[0], inner[1], outer[1]])[..., None]


def warp(image: Array, matrix: Array, fill: Array) -> Array:
    """PIL's Image.transform(AFFINE, BICUBIC): output (x, y) shows the input at (a x + b y + c,
    d x + e y + f), coordinates of pixel centres at .5, its border repeated; where that place lies
    outside the input, the colour `fill`.

    Args:
      image: float32[H, W, C]; matrix: float32[6], a to f; fill: float32[C].
    """
    height, width = image.shape[:2]
    grid = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)  # x, y: [H, W]
    a, b, c, d, e, f = matrix
    x, y = a * grid[0] + b * grid[1] + c, d * grid[0] + e * grid[1] + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    across, down = _cubic(x - 0.5 - left), _cubic(y - 0.5 - top)  # [4, H, W, 1]
    flat = rearrange(image, "h w c -> (h w) c")

    def pick(row: Array, column: Array) -> Array:
        row = jnp.clip(row, 0, height - 1).astype(jnp.int32)
        column = jnp.clip(column, 0, width - 1).astype(jnp.int32)
        return flat[row * width + column]  # [H, W, C]

    lines = [sum(across[i] * pick(top + j - 1, left + i - 1) for i in range(4)) for j in range(4)]
    out = sum(down[j] * line for j, line in enumerate(lines))
    out = jnp.clip(jnp.floor(out + 1e-4), 0, 255)  # whole numbers must not fall below
    return jnp.where(inside[..., None], out, fill)


COLOURS: tuple[Callable[[Array, Array, Array], Array], ...] = (
    *(auto_contrast, equalize, invert, posterize, solarize),
    *(solarize_add, color, contrast, brightness, sharpness),
)
WARPS: tuple[Callable[[Array, Array, tuple[int, int]], Array], ...] = (
    *(rotation, shear_x, shear_y, translate_x, translate_y),
)


NAMES = {op.__name__: op for op in (*COLOURS, *WARPS, identity)}


def apply(
    image: Array, op: Array, level: Array, sign: Array, fill: Array, how: RandAugment | None = None
) -> Array:
    """Applies one operation.

    Args:
      image: float32[H, W, 3], whole numbers in [0, 255].
      op: int32[], a place in how.ops, or in (*COLOURS, *WARPS).
      level: float32[] in [0, 10]; sign: +1 or -1, the direction where there are two.
      fill: float32[3], the colour outside a warped picture.
    """
    how = how or RandAugment()
    size, ops = image.shape[:2], [NAMES[name] for name in how.ops] or [*COLOURS, *WARPS]
    reach = {translate: functools.partial(translate, reach=how.translate)
             for translate in (translate_x, translate_y)}  # fmt: skip
    colours = [found for found in ops if found not in WARPS]
    warps = [reach.get(found, found) for found in ops if found in WARPS]
    # every operation's place among its kind: under vmap all warps share one branch
    places = [sum(f in WARPS for f in ops[:i]) if found in WARPS
              else sum(f not in WARPS for f in ops[:i]) for i, found in enumerate(ops)]  # fmt: skip
    place = jnp.array(places)[op]

    def warped(image: Array, level: Array, sign: Array) -> Array:
        shapes = [lambda s, matrix=matrix: matrix(*s, size) for matrix in warps]
        return warp(image, jax.lax.switch(place, shapes, (level, sign)), fill)

    branches = (*colours, warped) if warps else colours
    is_warp = jnp.array([found in WARPS for found in ops])[op]
    return jax.lax.switch(jnp.where(is_warp, len(colours), place), branches, image, level, sign)


def _one(image: Array, key: Array, how: RandAugment, fill: Array) -> Array:
    def step(image: Array, key: Array) -> tuple[Array, None]:
        keys = jax.random.split(key, 4)
        op = jax.random.randint(keys[0], (), 0, len(how.ops) or len(COLOURS) + len(WARPS))
        noise = how.std * jax.random.normal(keys[1])
        level = jnp.clip(how.magnitude + noise, 0, LEVELS)
        sign = jnp.where(jax.random.bernoulli(keys[2]), 1.0, -1.0)
        changed = apply(image, op, level, sign, fill, how)
        return jnp.where(jax.random.bernoulli(keys[3], how.prob), changed, image), None

    return jax.lax.scan(step, image, jax.random.split(key, how.num_ops))[0]


def rand_augment(
    images: Array, how: RandAugment, rng: Array | None, fill: tuple[float, float, float]
) -> Array:
    """Changes pictures uint8 or float[B, H, W, 3] in [0, 255]; rng: key[B], None leaves them.

    Args:
      fill: colour outside a warped picture, in [0, 255]; the recipes take the data's mean.

    Returns:
      float32[B, H, W, 3], whole numbers in [0, 255] (the input where there is nothing to do).
    """
    if rng is None or not how.magnitude:
        return images
    keys, colour = rngs.fold(rng, "rand_augment"), jnp.round(jnp.asarray(fill, jnp.float32))
    whole = jnp.round(images.astype(jnp.float32))
    return jax.vmap(_one, (0, 0, None, None))(whole, keys, how, colour)

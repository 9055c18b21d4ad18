"""Spatial changes of one picture: random crop, quarter turns, blur, edges, noise, cutout (SimCLR,
arXiv:2002.05709 figure 4 and appendix A), resolution lost (context prediction, arXiv:1505.05192).

A blur is two small matrix products, as the resize of a crop is. The file exists to hold the
operations that move or mix pixels. Pictures are float32[H, W, 3] in [0, 255].
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array

_EXACT = jax.lax.Precision.HIGHEST


def draw_crop(
    key: Array,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    attempts: int,
    aspect: Array | float = 1.0,
) -> tuple[Array, Array]:
    """Draws a box of a random area and aspect ratio (log-uniform).

    Args:
      key: key[].
      scale: (low, high) share of the area.
      ratio: (low, high) of width over height.
      aspect: width over height of the picture before it was squashed to a square, float32[].
      attempts: boxes drawn, of which the first that fits is taken, else the whole picture (PIL,
        TensorFlow; 10 at scale (0.08, 1) fail once in 10^8); 1 cuts a box that is too long.

    Returns:
      (share float32[2] of height and width, start float32[2] in [0, 1 - share]).
    """
    keys = jax.random.split(key, 4)
    shape = () if attempts == 1 else (attempts,)
    area = jax.random.uniform(keys[0], shape, minval=scale[0], maxval=scale[1])
    low, high = jnp.log(jnp.asarray(ratio))
    ratios = jnp.exp(jax.random.uniform(keys[1], shape, minval=low, maxval=high)) / aspect
    share = jnp.sqrt(area * jnp.stack([1 / ratios, ratios]))  # [2, attempts]
    if attempts > 1:
        fits = (share <= 1).all(0)
        share = jnp.where(fits.any(), share[:, jnp.argmax(fits)], 1.0)
    share = jnp.minimum(1.0, share)
    return share, jnp.stack([jax.random.uniform(k) for k in keys[2:]]) * (1 - share)


def central(aspect: Array | float) -> tuple[Array, Array]:
    """The largest central square of a picture of that width over height: (share, start), as
    draw_crop's.
    """
    share = jnp.minimum(1.0, jnp.stack([jnp.asarray(aspect), 1 / jnp.asarray(aspect)]))
    return share, (1 - share) / 2


def crop(image: Array, share: Array, start: Array, size: int = 0) -> Array:
    """The box resized to size x size pixels (0: as the picture), bicubic with antialiasing."""
    shape = (size or image.shape[0], size or image.shape[1], 3)
    to = jnp.array(shape[:2], jnp.float32)
    scale, move = to / jnp.array(image.shape[:2]) / share, -start * to / share
    out = jax.image.scale_and_translate(image, shape, (0, 1), scale, move, "cubic")
    return jnp.clip(out, 0, 255)


def pixelate(image: Array, side: Array) -> Array:
    """Shrinks a picture to side x side pixels, linear with antialiasing, and enlarges it again;
    side: whole number in [1, S].
    """
    scale = side / jnp.array(image.shape[:2], jnp.float32)
    resize = lambda x, scale: jax.image.scale_and_translate(  # noqa: E731
        x, image.shape, (0, 1), scale, jnp.zeros(2), "linear"
    )
    row, column = (jnp.minimum(jnp.arange(n), side - 1).astype(int) for n in image.shape[:2])
    return resize(resize(image, scale)[row][:, column], 1 / scale)


def quarter_turn(image: Array, turns: Array) -> Array:
    """Turns a square picture by 0 to 3 quarters, as np.rot90; turns: int32[]."""
    swapped = jnp.swapaxes(image, 0, 1)
    turned = (image, swapped[::-1], image[::-1, ::-1], swapped[:, ::-1])
    return jnp.select([turns == k for k in range(4)], turned)


def _gauss(size: int, radius: int, sigma: Array) -> Array:
    """float32[size, size]: row i holds the normalised window around i; the border counts as 0."""
    distance = jnp.arange(size)[:, None] - jnp.arange(size)
    window = lambda d: jnp.exp(-jnp.square(d) / (2 * jnp.square(sigma)))  # noqa: E731
    weights = jnp.where(jnp.abs(distance) <= radius, window(distance), 0)
    return weights / window(jnp.arange(-radius, radius + 1)).sum()


def blur(image: Array, sigma: Array) -> Array:
    """Gaussian blur by `sigma` pixels with a window of height // 10, made odd, zeros outside, as in
    the official code.
    """
    height, width = image.shape[:2]
    radius = height // 10 // 2
    rows, columns = _gauss(height, radius, sigma), _gauss(width, radius, sigma)
    image = jnp.einsum("hi,iwc->hwc", rows, image, precision=_EXACT)
    return jnp.einsum("wj,hjc->hwc", columns, image, precision=_EXACT)


def edges(image: Array) -> Array:
    """Sobel gradient length of each channel, the border repeated, clipped to the range."""
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")

    def smooth(x: Array, axis: int) -> Array:
        n = x.shape[axis]
        part = lambda a: jax.lax.slice_in_dim(x, a, n - 2 + a, axis=axis)  # noqa: E731
        return part(0) + 2 * part(1) + part(2)

    across = smooth(padded[:, 2:] - padded[:, :-2], 0)
    down = smooth(padded[2:] - padded[:-2], 1)
    return jnp.clip(jnp.sqrt(jnp.square(across) + jnp.square(down)), 0, 255)


def cutout(image: Array, key: Array, share: float) -> Array:
    """Blackens a square of `share` x the side at a random centre, cut off at the border
    (arXiv:1708.04552).
    """
    inside = jnp.ones((), bool)
    for axis, k in enumerate(jax.random.split(key)):
        side = image.shape[axis]
        centre = jax.random.randint(k, (), 0, side)
        offset = jnp.arange(side) - centre
        length = round(share * side)
        near = (offset >= -(length // 2)) & (offset < length - length // 2)
        inside = inside & jnp.expand_dims(near, 1 - axis)
    return jnp.where(inside[..., None], 0.0, image)

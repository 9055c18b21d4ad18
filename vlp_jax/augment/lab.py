"""CIE Lab under D65 and the ab plane in bins, for colorization (arXiv:1603.08511).

The file exists because the published bins are a file; here they are computed, for any bin size.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.types import Array

# sRGB (IEC 61966-2-1) to XYZ and the D65 white point, as scikit-image has them
TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def srgb_to_lab(rgb: Array) -> Array:
    """sRGB in [0, 1] -> L in [0, 100], a and b within +-110. float32[..., 3]"""
    light = jnp.where(
        rgb > 0.04045, ((jnp.maximum(rgb, 0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92
    )
    xyz = jnp.matmul(light, TO_XYZ.T / WHITE, precision="highest")
    f = jnp.where(xyz > 0.008856, jnp.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = jnp.moveaxis(f, -1, 0)
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_srgb(lab: Array) -> Array:
    """Inverse of `srgb_to_lab`; colours outside sRGB are clipped to [0, 1]."""
    y = (lab[..., 0] + 16) / 116
    f = jnp.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = jnp.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    light = jnp.matmul(xyz, np.linalg.inv(TO_XYZ / WHITE[:, None]).T, precision="highest")
    light = jnp.clip(light, 0, 1)
    high = 1.055 * jnp.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(light > 0.0031308, high, 12.92 * light)


@functools.cache
def ab_bins(step: int = 10) -> np.ndarray:
    """Bin centres (a, b) of the ab plane in order of a, then b: float32[Q, 2].

    A centre is a multiple of `step` that is a corner of a grid square met by the convex hull of all
    sRGB colours' (a, b). Step 10 gives exactly the 313 published points.
    """
    side = np.linspace(0, 1, 33)
    cube = np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)
    surface = cube[(cube.min(1) == 0) & (cube.max(1) == 1)]
    colours = _numpy_ab(surface)
    fine = np.arange(-120, 120, 0.5) + 0.25
    points = np.stack(np.meshgrid(fine, fine, indexing="ij"), -1).reshape(-1, 2)
    inside = np.ones(len(points), bool)
    for angle in np.arange(360) * np.pi / 180:  # a convex set is what no half-plane cuts off
        normal = np.array([np.cos(angle), np.sin(angle)])
        inside &= points @ normal <= (colours @ normal).max()
    squares = np.unique(np.floor(points[inside] / step).astype(int), axis=0)
    corners = squares[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return np.unique(corners.reshape(-1, 2), axis=0).astype(np.float32) * step


def _numpy_ab(rgb: np.ndarray) -> np.ndarray:
    """`srgb_to_lab` without a device, so that it can run while something is traced."""
    light = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = light @ (TO_XYZ.T / WHITE)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)


@functools.cache
def _bin_table(step: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32[A, B] of the bins on their grid, -1 where there is none, two rows and columns of
    it all around; int[2] grid place of a = b = 0).
    """
    places = np.int64(ab_bins(step) / step)
    low = places.min(0) - 2
    table = np.full(places.max(0) + 3 - low, -1, np.int32)
    table[tuple((places - low).T)] = np.arange(len(places))
    return table, -low


def encode_ab(ab: Array, step: int, neighbours: int, sigma: float) -> tuple[Array, Array]:
    """Soft assignment of colours to their nearest bins, looked for among the 5 x 5 grid points
    around a colour.

    Args:
      ab: float[..., 2]; step: of `ab_bins`.
      neighbours: K nearest bins, weighted by exp(-d^2 / (2 sigma^2)); K up to 10.

    Returns:
      (ids int32[..., K], the nearest first, weights float32[..., K] that sum to 1).
    """
    table, origin = _bin_table(step)
    around = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2, indexing="ij"), -1).reshape(-1, 2)
    places = jnp.round(ab / step).astype(jnp.int32) + origin
    places = jnp.clip(places, 2, np.array(table.shape) - 3)[..., None, :] + around  # [..., 25, 2]
    ids = jnp.asarray(table)[places[..., 0], places[..., 1]]
    square = jnp.sum(jnp.square((places - origin) * step - ab[..., None, :]), axis=-1)
    near, which = jax.lax.top_k(jnp.where(ids < 0, -1e9, -square), neighbours)
    weights = jax.nn.softmax(near / (2 * sigma**2), axis=-1)
    return jnp.maximum(jnp.take_along_axis(ids, which, axis=-1), 0), weights


def decode_ab(logits: Array, bins: np.ndarray, temperature: float) -> Array:
    """Annealed mean of a distribution over bins: float[..., Q] -> (a, b) float32[..., 2].

    Temperature 1 is the mean, towards 0 the mode; 0.38 is the paper's.
    """
    return jnp.matmul(jax.nn.softmax(logits / temperature), bins, precision="highest")

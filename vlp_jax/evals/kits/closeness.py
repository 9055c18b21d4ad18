"""How close pictures are to others: PSNR and SSIM (Wang et al. 2004), picture by picture.

SSIM has a Gaussian window of 11 x 11 (sigma 1.5), variances of the window's own weights, K1 0.01
and K2 0.03 of the range 1, and is the mean over channels and all places whose window lies in the
picture: scikit-image's `structural_similarity` with gaussian_weights=True, sigma=1.5,
use_sample_covariance=False, data_range=1, channel_axis=-1, and torchmetrics' default. The file
exists as that definition.
"""

import numpy as np

from vlp_jax.core.errors import UserError

SIDE, SIGMA = 11, 1.5
PROTOCOL = f"Gaussian window {SIDE} x {SIDE}, sigma {SIGMA}, as scikit-image's and torchmetrics'"
_AT = np.arange(SIDE) - SIDE // 2
_WINDOW = np.exp(-0.5 * np.square(_AT / SIGMA))
_WINDOW /= _WINDOW.sum()


def psnr(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """10 log10(1 / mean square) in dB, at most 100; float[N, H, W, C] in [0, 1] -> float64[N]"""
    square = np.square(pictures.astype(np.float64) - others).mean((1, 2, 3))
    return -10 * np.log10(np.maximum(square, 1e-10))


def ssim(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The mean structural similarity: 1 where pictures are equal.

    float[N, H, W, C] in [0, 1] -> float64[N]

    Raises:
      UserError: a side below 11 pixels.
    """
    if min(pictures.shape[1:3]) < SIDE:
        raise UserError(f"SSIM needs pictures of at least {SIDE} pixels, got {pictures.shape[1:3]}")
    a, b = pictures.astype(np.float64), others.astype(np.float64)
    mean_a, mean_b, square_a, square_b, product = map(_windowed, (a, b, a * a, b * b, a * b))
    low, high = 0.01**2, 0.03**2
    variances = square_a - mean_a**2 + square_b - mean_b**2
    near = (2 * mean_a * mean_b + low) / (mean_a**2 + mean_b**2 + low)
    alike = (2 * (product - mean_a * mean_b) + high) / (variances + high)
    return (near * alike).mean((1, 2, 3))


def _windowed(x: np.ndarray) -> np.ndarray:
    """The window's mean wherever it fits: [N, H, W, C] -> [N, H - 10, W - 10, C]."""
    for axis in (1, 2):
        x = np.lib.stride_tricks.sliding_window_view(x, SIDE, axis) @ _WINDOW
    return x

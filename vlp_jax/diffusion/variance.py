"""Variances of the reverse process that a network learns (arXiv:2102.09672; code of
openai/guided-diffusion for units).

log variance = f log beta + (1 - f) log beta~, f = (output + 1) / 2. The file exists to hold the
posterior and the bound that teaches f.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.types import Array
from vlp_jax.diffusion.schedules import Schedule

LEAST = 1e-20  # variance of a step to a clean picture, whose logarithm must be finite
STEP = 1 / 255  # half a grey level in [-1, 1]


class Posterior(NamedTuple):
    """q(x' | x, x0) between two levels: mean x0 * clean + x * noisy, log variance `small`; `large`
    is log beta. All float64[N]."""

    clean: np.ndarray
    noisy: np.ndarray
    small: np.ndarray
    large: np.ndarray


def posterior(here: np.ndarray, there: np.ndarray) -> Posterior:
    """Of steps from alpha_bar `here` to `there` (arXiv:2006.11239, eq. 7). float64[N] each"""
    beta = 1 - here / there
    clean = np.sqrt(there) * beta / (1 - here)
    noisy = np.sqrt(here / there) * (1 - there) / (1 - here)
    small = np.log(np.maximum((1 - there) / (1 - here) * beta, LEAST))
    return Posterior(clean, noisy, small, np.log(beta))


def log_variance(spread: Array, small: Array, large: Array) -> Array:
    """Between both by a network's second half `spread`, -1 to 1 and beyond."""
    share = (spread + 1) / 2
    return share * large + (1 - share) * small


def bound(schedule: Schedule, time: Array, x0: Array, x: Array, found: Array, spread: Array):
    """One term of the variational bound, in bits per dimension; teaches `spread` alone.

    Hybrid training adds this times T / 1000.

    Args:
      time: int32[B]. x0, x: float32[B, ..., C], picture and its noised form.
      found: the network's x0, without gradient. spread: its second half.

    Returns:
      float32[B]; at time 0 the likelihood of 8-bit pixels, else KL(q || p).
    """
    bar = schedule.alpha_bar
    table = posterior(bar, np.append(1.0, bar[:-1]))
    # At time 0 q has no variance: as in the reference, time 1's takes its place.
    small = np.append(table.small[1], table.small[1:])
    shape = (len(time), *[1] * (x.ndim - 1))
    at = [jnp.asarray(row, jnp.float32)[time].reshape(shape) for row in (*table[:2], small)]
    large = jnp.asarray(table.large, jnp.float32)[time].reshape(shape)
    true = at[0] * x0 + at[1] * x
    mean = at[0] * jax.lax.stop_gradient(found) + at[1] * x
    log_var = log_variance(spread, at[2], large)
    kl = 0.5 * (log_var - at[2] + jnp.exp(at[2] - log_var) - 1)
    kl = kl + 0.5 * jnp.square(true - mean) * jnp.exp(-log_var)
    term = jnp.where(time.reshape(shape) == 0, -log_likelihood(x0, mean, log_var), kl)
    return term.reshape(len(time), -1).mean(1) / jnp.log(2.0)


def log_likelihood(x0: Array, mean: Array, log_variance: Array) -> Array:
    """Log probability of 8-bit pixels in [-1, 1]: a Gaussian's mass in the pixel's grey level, the
    outermost ones reaching to infinity. Shapes as given."""
    scale = jnp.exp(-0.5 * log_variance)
    above = jax.scipy.special.log_ndtr((x0 + STEP - mean) * scale)
    below = (x0 - STEP - mean) * scale
    middle = jax.scipy.special.ndtr((x0 + STEP - mean) * scale) - jax.scipy.special.ndtr(below)
    found = jnp.log(jnp.maximum(middle, 1e-12))
    found = jnp.where(x0 > 0.999, jax.scipy.special.log_ndtr(-below), found)
    return jnp.where(x0 < -0.999, above, found)

"""What a denoising network is taught and what its output says (DDPM, arXiv:2006.11239; v,
arXiv:2202.00512; min-SNR, arXiv:2303.09556; input perturbation, arXiv:2301.11706).

The file exists as the one place where noise, picture and velocity are turned into each other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core.rng import fold
from vlp_jax.core.types import Array
from vlp_jax.diffusion.schedules import Prediction, Schedule


class Level(NamedTuple):
    """x = alpha x0 + sigma e; alpha^2 + sigma^2 = 1. Both float32, [] or broadcast to x."""

    alpha: Array
    sigma: Array


class Seen(NamedTuple):
    """What an output says: the picture and the noise, shaped as x."""

    x0: Array
    eps: Array


def level(schedule: Schedule, time: Array, like: Array) -> Level:
    """The levels of whole times. int32[B], [B, ...] -> float32[B, 1, ...] each"""
    bar = schedule.alpha_bar
    roots = jnp.sqrt(jnp.asarray([bar, 1 - bar], jnp.float32))[:, time]
    return Level(*roots.reshape(2, len(time), *[1] * (like.ndim - 1)))


def noised(x0: Array, eps: Array, at: Level) -> Array:
    """x_t."""
    return at.alpha * x0 + at.sigma * eps


def target(kind: Prediction, x0: Array, eps: Array, at: Level) -> Array:
    """What the network shall give."""
    if kind == "v":
        return at.alpha * eps - at.sigma * x0
    return eps if kind == "eps" else x0


def seen(kind: Prediction, out: Array, x: Array, at: Level) -> Seen:
    """Picture and noise of an output for x."""
    if kind == "v":
        return Seen(at.alpha * x - at.sigma * out, at.alpha * out + at.sigma * x)
    if kind == "eps":
        return Seen((x - at.sigma * out) / at.alpha, out)
    return Seen(out, noise_of(out, x, at))


def noise_of(x0: Array, x: Array, at: Level) -> Array:
    """The noise that makes x of x0; 0 where there is none."""
    some = at.sigma > 0
    return jnp.where(some, (x - at.alpha * x0) / jnp.where(some, at.sigma, 1), 0)


def min_snr_weight(kind: Prediction, at: Level, gamma: float = 5.0) -> Array:
    """Weight of a squared error: that of x0 weighs min(SNR, gamma), SNR = alpha^2 / sigma^2.

    Worked example: SNR 20, gamma 5: x0 5, eps 5 / 20, v 5 / 21. Without signal (zero terminal SNR)
    x0 and v weigh 0 and eps, which is no target there, 1.
    """
    snr = jnp.square(at.alpha) / jnp.square(at.sigma)
    weight = jnp.minimum(snr, gamma)
    if kind == "eps":
        return jnp.minimum(1, gamma / jnp.maximum(snr, 1e-12))
    return weight / (snr + 1) if kind == "v" else weight


def noise(rng: Array, shape: tuple[int, ...]) -> Array:
    """N(0, 1), every row by its own key. key[B] -> float32[B, *shape]"""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(rng)


def offset_noise(rng: Array, eps: Array, amount: float) -> Array:
    """eps with one more draw per row and channel, times `amount`, that all pixels share (0.05 in
    SDXL). key[B], float32[B, ..., C] -> float32[B, ..., C]"""
    shape = (*[1] * (eps.ndim - 2), eps.shape[-1])
    return eps + amount * noise(fold(rng, "offset"), shape)


def perturbed(rng: Array, eps: Array, amount: float = 0.1) -> Array:
    """The noise that x_t is made with, where `eps` stays the target: input perturbation."""
    return eps + amount * noise(fold(rng, "perturbation"), eps.shape[1:])

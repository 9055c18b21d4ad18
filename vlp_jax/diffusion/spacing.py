"""Which times a sampler visits (arXiv:2305.08891, table 2), and at which noise levels.

A level is its alpha_bar alone: x = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) e, whatever the
sampler. Samplers of the papers that add sigma e to an unscaled picture (Karras et al.,
arXiv:2206.00364) walk here on x / sqrt(1 + sigma^2), where alpha_bar = 1 / (1 + sigma^2): the same
steps, and one kind of x for noise, masks and networks. The file exists to hold the rules of the
spacings, which differ between diffusers' samplers.
"""

from typing import Literal, NamedTuple

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.diffusion.schedules import Schedule

Spacing = Literal["leading", "linspace", "trailing"]
RHO = 7.0  # arXiv:2206.00364, eq. 5


class Grid(NamedTuple):
    """Of N steps. time: float64[N], told to the network. here, there: float64[N], alpha_bar where
    a step begins and where it ends. start: the noise that sampling begins with is this times N(0,
    1)."""

    time: np.ndarray
    here: np.ndarray
    there: np.ndarray
    start: float = 1.0


def times(schedule: Schedule, steps: int, spacing: Spacing, past: int = 0) -> np.ndarray:
    """Falling times, of linspace not yet rounded. float64[N + past]

    past: of so many more than the steps.

    Worked example, T = 1000, N = 50, offset 1: leading 981, 961, ..., 1; linspace 999, 978.6, ...,
    0; trailing 999, 979, ..., 19.

    Raises:
      UserError: times outside of the schedule's.
    """
    total, count = schedule.times, steps + past
    if count > total:
        most = f"the sampler takes at most {total - past} with {spacing} spacing"
        raise UserError(f"steps={steps}: {most}, the schedule has {total} times")
    if spacing == "linspace":  # one step: the last time (diffusers: the first, from where no
        up = np.linspace(0, total - 1, count)  # sampler gets anywhere)
        found = up[::-1] if count > 1 else np.array([total - 1.0])
    elif spacing == "leading":
        found = np.arange(count)[::-1] * float(total // count) + schedule.offset
    else:
        found = np.round(total - np.arange(count) * (total / count)) - 1
    if found[0] >= total:  # leading, by the offset
        most = f"{spacing} spacing asks for time {found[0]:g} of 0 to {total - 1}"
        raise UserError(f"steps={steps}: {most}; set fewer, another spacing, or offset=0")
    return found


def by_gap(schedule: Schedule, steps: int, spacing: Spacing) -> Grid:
    """Whole times; a step ends T // N times lower, as diffusers' DDIM and PNDM have it. Where N
    does not divide T that is next to the following time, not on it."""
    at = np.round(times(schedule, steps, spacing)).astype(int)
    bar = schedule.alpha_bar
    return Grid(at.astype(float), bar[at], lower(schedule, at - schedule.times // steps))


def lower(schedule: Schedule, at: np.ndarray) -> np.ndarray:
    """alpha_bar of whole times, those below 0 being the end. int[N] -> float64[N]"""
    return np.where(at >= 0, schedule.alpha_bar[np.maximum(at, 0)], schedule.last)


def whole(schedule: Schedule, at: np.ndarray, last: float) -> Grid:
    """Falling whole times; a step ends on the following one, and the last at alpha_bar `last`."""
    at = np.round(at).astype(int)
    here = schedule.alpha_bar[at]
    return Grid(at.astype(float), here, np.append(here[1:], last))


def on_sigmas(schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Grid:
    """Times need not be whole: sigma lies between its neighbours', in a straight line.

    karras: sigmas from the first to the last of these by `karras_sigmas`, and their times.
    """
    at, table = times(schedule, steps, spacing), schedule.sigmas
    sigma = np.interp(at, np.arange(len(table)), table)
    if karras:
        sigma = karras_sigmas(sigma[0], sigma[-1], steps)
        at = time_of(sigma, table)
    start = 1.0 if spacing == "leading" else sigma[0] / np.hypot(1, sigma[0])
    return from_sigmas(at, sigma)._replace(start=float(start))


def from_sigmas(at: np.ndarray, sigma: np.ndarray) -> Grid:
    """Steps from sigma to sigma, and to 0 in the end."""
    here = 1 / (1 + np.square(sigma))
    return Grid(at, here, np.append(here[1:], 1.0))


def karras_sigmas(first: float, last: float, steps: int) -> np.ndarray:
    """Falling, evenly spaced in sigma^(1/7). float64[N]"""
    high, low = first ** (1 / RHO), last ** (1 / RHO)
    return (high + np.linspace(0, 1, steps) * (low - high)) ** RHO


def time_of(sigma: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Where sigma stands in a rising table, in a straight line of its logarithm."""
    return np.interp(np.log(sigma), np.log(table), np.arange(len(table)))

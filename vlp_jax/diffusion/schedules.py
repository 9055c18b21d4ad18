"""How much noise there is at which time: alpha_bar_t of x_t = sqrt(alpha_bar_t) x_0 +
sqrt(1 - alpha_bar_t) e (DDPM, arXiv:2006.11239; cosine, arXiv:2102.09672; zero terminal SNR,
arXiv:2305.08891).

All is computed once, on the host, in float64. The file exists as the one table that training and
every sampler read.
"""

import dataclasses
from functools import cached_property
from typing import Annotated, Literal

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Range, Size

Prediction = Literal["eps", "x0", "v"]
Beta = Annotated[float, Range(1e-9, 0.999)]
COSINE_SHIFT, COSINE_MOST = 0.008, 0.999  # arXiv:2102.09672, 3.2
LEAST = 2.0**-24  # alpha_bar in place of 0 where sigma / alpha must be finite, as in diffusers


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a network was trained with; the defaults are Stable Diffusion 1's.

    Attributes:
      name: linear: betas evenly spaced; scaled_linear: their square roots are (LDM's configs call
        this one linear and the other sqrt_linear); cosine: has no start and end.
      start, end: first and last beta.
      times: T; times are 0, 1, ..., T - 1.
      zero_snr: shifted and scaled so that the last time is noise alone.
      prediction: what the network gives: the noise, the picture, or the velocity.
      offset: added to times of leading spacing.
      last_is_one: samplers on whole times end at alpha_bar 1, not at that of time 0
        (set_alpha_to_one in diffusers; DDPM and the samplers on sigmas end there anyway).
    """

    name: Literal["linear", "scaled_linear", "cosine"] = "scaled_linear"
    start: Beta = 0.00085
    end: Beta = 0.012
    times: Size = 1000
    zero_snr: bool = False
    prediction: Prediction = "eps"
    offset: Annotated[int, Range(0)] = 1
    last_is_one: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        if self.zero_snr and self.prediction == "eps":
            why = "the last time holds no picture, so its noise tells nothing; use v or x0"
            raise UserError(f"prediction='eps': not with zero_snr=True: {why}")

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """float64[T], falling; the share of the picture in the variance of x_t."""
        found = np.cumprod(1 - self._betas())
        return without_last_signal(found) if self.zero_snr else found

    @property
    def sigmas(self) -> np.ndarray:
        """float64[T]: sqrt((1 - alpha_bar) / alpha_bar), the noise of x_t / sqrt(alpha_bar)."""
        bar = np.where(self.alpha_bar > 0, self.alpha_bar, LEAST)
        return np.sqrt((1 - bar) / bar)

    @property
    def last(self) -> float:
        """alpha_bar where samplers on whole times end."""
        return 1.0 if self.last_is_one else float(self.alpha_bar[0])

    def _betas(self) -> np.ndarray:
        """float64[T]"""
        if self.name == "linear":
            return np.linspace(self.start, self.end, self.times)
        if self.name == "scaled_linear":
            return np.linspace(self.start**0.5, self.end**0.5, self.times) ** 2
        at = np.arange(self.times + 1) / self.times
        f = np.cos((at + COSINE_SHIFT) / (1 + COSINE_SHIFT) * np.pi / 2) ** 2
        return np.minimum(1 - f[1:] / f[:-1], COSINE_MOST)


def without_last_signal(alpha_bar: np.ndarray) -> np.ndarray:
    """Shifts and scales sqrt(alpha_bar) so that the first stays and the last is 0. float64[T] ->
    float64[T]
    """
    root = np.sqrt(alpha_bar)
    return np.square((root - root[-1]) * root[0] / (root[0] - root[-1]))

"""DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2) and, with noise, SDE-DPM-Solver++(2M) (ibid.,
appendix B; arXiv:2305.14267 for its form).

With lambda = log(alpha / sigma), h its rise and r = h_before / h:
x' = (sigma' / sigma) x + alpha' (1 - e^-h) (x0 + (x0 - x0_before) / (2 r)); the SDE has e^-2h in
place of e^-h, sigma' / sigma times e^-h, and new noise. The file exists as the sampler for few
steps.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import (
    Grid,
    Spacing,
    from_sigmas,
    karras_sigmas,
    time_of,
    times,
)

FEW = 15  # steps, below which the last but one is taken with care, as in the authors' code


@options
class DpmSolver(Sampler):
    """Remembers the picture seen at the call before.

    order: 1 is DDIM. solver: how the difference of two pictures enters. last: where the last step
    ends: without noise, or at the schedule's first level; a last step of fewer than FEW, and one
    without noise at its end, is of order 1.
    """

    order: Literal[1, 2] = 2
    solver: Literal["midpoint", "heun"] = "midpoint"
    last: Literal["zero", "first"] = "zero"

    spacing = "linspace"
    remembers = 1
    sde: ClassVar[bool] = False

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """One call per step."""
        grid = _grid(schedule, steps, spacing, karras)
        if self.last == "first":
            there = np.append(grid.there[:-1], schedule.alpha_bar[0])
            grid = grid._replace(there=there)
        return tabled(grid, **self._coefficients(grid))

    def _coefficients(self, grid: Grid) -> dict[str, np.ndarray]:
        """Of x, the picture, its difference from the one before, and noise. float64[N] each"""
        alpha, sigma = np.sqrt(grid.there), np.sqrt(1 - grid.there)
        lam = lambda bar: 0.5 * np.log(bar / np.maximum(1 - bar, 1e-300))  # noqa: E731
        h = lam(grid.there) - lam(grid.here)  # some 340 to where there is no noise: e^-h is 0
        rise = 2 * h if self.sde else h
        own = -alpha * np.expm1(-rise)
        turn = alpha * (1 + np.expm1(-rise) / rise) if self.solver == "heun" else own / 2
        ratio = np.append(np.inf, h[:-1]) / h  # r; the first step has none before it
        if self.order == 1 or len(h) < FEW or grid.there[-1] == 1:
            ratio[-1] = np.inf
        if self.order == 1:
            ratio[:] = np.inf
        kept = sigma / np.sqrt(1 - grid.here) * (np.exp(-h) if self.sde else 1)
        drawn = sigma * np.sqrt(-np.expm1(-2 * h)) * self.sde
        return {"kept": kept, "own": own, "turn": turn / ratio, "drawn": drawn}

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """From what is seen now and was seen before."""
        row, x0 = now.row, now.seen.x0
        turn = jnp.where(now.count > 0, row["turn"], 0)
        x = row["kept"] * now.x + row["own"] * x0 + turn * (x0 - memory[0])
        return (x + row["drawn"] * now.noise if self.draws else x), (x0,)


def _grid(schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Grid:
    """Whole times, of which linspace and leading leave out the lowest of N + 1; or Karras sigmas
    over the whole schedule, whose times are rounded, save with cosine."""
    table = schedule.sigmas
    if karras:
        sigma = karras_sigmas(table[-1], table[0], steps)
        at = time_of(sigma, table)
        return from_sigmas(at if schedule.name == "cosine" else np.round(at), sigma)
    if spacing == "trailing":
        at = times(schedule, steps, spacing)
    else:
        at = times(schedule, steps, spacing, past=1)[:-1]
    at = np.round(at).astype(int)
    return from_sigmas(at.astype(float), table[at])

"""Euler's method to a lower level than the next, and new noise up to it (k-diffusion's
sample_euler_ancestral; the variance is DDPM's posterior).

The file exists as Euler's sampler that draws.
"""

import numpy as np

from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Spacing, on_sigmas


@options
class EulerAncestral(Sampler):
    """No options."""

    spacing = "linspace"
    draws = True

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """One call per step. Of x / alpha: down = sigma'^2 / sigma, up^2 = sigma'^2 - down^2."""
        grid = on_sigmas(schedule, steps, spacing, karras)
        here, there = (np.sqrt((1 - bar) / bar) for bar in (grid.here, grid.there))
        alpha, down = np.sqrt(grid.there), there**2 / here
        up = np.sqrt(np.maximum(there**2 - down**2, 0))
        return tabled(grid, down=alpha * down, up=alpha * up)

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """Less of the noise than the next level has, and new noise."""
        row, seen = now.row, now.seen
        x = row["alpha_next"] * seen.x0 + row["down"] * seen.eps
        return x + row["up"] * now.noise, memory

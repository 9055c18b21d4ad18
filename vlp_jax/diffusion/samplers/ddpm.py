"""Ancestral sampling (DDPM, arXiv:2006.11239, algorithm 2) on any falling times; with a learned
variance where the network gives one (arXiv:2102.09672).

The file exists as the sampler of pixel models.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, no_karras, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Spacing, times, whole
from vlp_jax.diffusion.variance import log_variance, posterior


@options
class Ddpm(Sampler):
    """variance: where the network gives none; small: the posterior's, large: beta. The last step
    draws none, as in the paper."""

    variance: Literal["small", "large"] = "small"

    draws = True

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """One call per step, the last to a clean picture."""
        no_karras(karras, "ddpm")
        grid = whole(schedule, times(schedule, steps, spacing), last=1.0)
        drawn = np.arange(steps) < steps - 1
        return tabled(grid, drawn=drawn, **posterior(grid.here, grid.there)._asdict())

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """A draw from the posterior of what is seen."""
        row = now.row
        mean = row["clean"] * now.seen.x0 + row["noisy"] * now.x
        if now.spread is None:
            log_var = row[self.variance]
        else:
            log_var = log_variance(now.spread, row["small"], row["large"])
        return mean + row["drawn"] * jnp.exp(0.5 * log_var) * now.noise, memory

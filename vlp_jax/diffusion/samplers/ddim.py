"""DDIM (arXiv:2010.02502, eq. 12 and 16): deterministic at eta 0, DDPM's variance at eta 1.

The file exists as Stable Diffusion 1's own sampler.
"""

from typing import Annotated

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.options import options
from vlp_jax.core.schema import Range
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, no_karras, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Spacing, by_gap


@options
class Ddim(Sampler):
    """eta: share of the posterior's standard deviation that is drawn anew."""

    eta: Annotated[float, Range(0, 1)] = 0.0

    draws = True

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """One call per step."""
        no_karras(karras, "ddim")
        grid = by_gap(schedule, steps, spacing)
        share = (1 - grid.there) / (1 - grid.here) * (1 - grid.here / grid.there)
        return tabled(grid, drawn=np.sqrt(share))

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """Picture, what is left of the noise, and new noise."""
        row, seen, drawn = now.row, now.seen, self.eta * now.row["drawn"]
        kept = jnp.sqrt(jnp.maximum(jnp.square(row["sigma_next"]) - jnp.square(drawn), 0))
        return row["alpha_next"] * seen.x0 + kept * seen.eps + drawn * now.noise, memory

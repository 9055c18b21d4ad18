"""Euler's method on the probability flow (Karras et al., arXiv:2206.00364, algorithm 1 with one
evaluation per step and no churn).

Of y = x / alpha and its noise sigma: y' = y + (sigma' - sigma) eps = x0 + sigma' eps. The file
exists as SDXL's own sampler.
"""

from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, moved, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Spacing, on_sigmas


@options
class Euler(Sampler):
    """No options."""

    spacing = "linspace"

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """One call per step."""
        return tabled(on_sigmas(schedule, steps, spacing, karras))

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """The same noise, less of it."""
        return moved(now.seen, now.row), memory

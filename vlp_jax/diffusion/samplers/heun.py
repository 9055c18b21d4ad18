"""Heun's second-order method on the probability flow (Karras et al., arXiv:2206.00364, algorithm 1
without churn): Euler's step, then again with the mean of the noise at both its ends.

The file exists as the sampler that calls the network twice in a step, save in the last, which ends
where there is no noise to look at.
"""

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, moved, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Grid, Spacing, on_sigmas


@options
class Heun(Sampler):
    """No options. Remembers picture and noise as seen at the step's beginning."""

    spacing = "linspace"
    remembers = 2

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """2 N - 1 calls: even ones at a step's beginning, odd ones at its end."""
        grid = on_sigmas(schedule, steps, spacing, karras)
        sigma = np.sqrt((1 - grid.here) / grid.here)
        now, end = sigma[:-1], sigma[1:]
        alpha = np.sqrt(grid.there[:-1])
        both = lambda even, odd: np.stack([even, odd], 1).reshape(-1)[:-1]  # noqa: E731
        twice = Grid(
            both(grid.time, np.append(grid.time[1:], 0)),
            both(grid.here, grid.there),
            both(grid.there, grid.there),
            grid.start,
        )
        # y' = x0 + sigma eps + (sigma' - sigma) (eps + eps') / 2, y = x / alpha.
        old, new = (np.append(alpha * k / 2, 0) for k in (end + now, end - now))
        odd = both(np.zeros(steps), np.ones(steps))
        return tabled(twice, odd=odd, old=both(old, old), new=both(new, new))

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """To the level of the step's end, for the first time or the second."""
        seen, row = now.seen, now.row
        again = row["alpha_next"] * memory[0] + row["old"] * memory[1] + row["new"] * seen.eps
        x = jnp.where(row["odd"] > 0, again, moved(seen, row))
        return x, (seen.x0, seen.eps)

    def window(self, steps: int, part: Array) -> tuple[Array, Array]:
        """Two calls for a step."""
        return 2 * (steps - part), jnp.int32(2 * steps - 1)

"""Consistency sampling of latent consistency models (arXiv:2310.04378, algorithm 3): the network's
picture, noised again to the next level.

c_skip = s^2 / (q^2 + s^2), c_out = q / sqrt(q^2 + s^2), q = 10 t, s = 0.5, so that the picture at
time 0 is x itself (arXiv:2303.01469). The file exists for distilled networks of 1 to 8 steps.
"""

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, no_karras, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Spacing, whole

DATA, SCALE = 0.5, 10.0  # sigma_data and timestep_scaling of the released code


@options
class Lcm(Sampler):
    """teacher_steps: of the solver that it was distilled with; its times are every T // this of
    them, whatever the spacing."""

    teacher_steps: int = 50

    draws = True

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """N of the teacher's times, evenly chosen from the highest down."""
        no_karras(karras, "lcm")
        if steps > self.teacher_steps:
            raise UserError(f"steps={steps}: lcm takes at most its teacher's {self.teacher_steps}")
        gap = schedule.times // self.teacher_steps
        taught = np.arange(self.teacher_steps, 0, -1) * gap - 1
        at = taught[np.floor(np.arange(steps) * self.teacher_steps / steps).astype(int)]
        grid = whole(schedule, at, last=1.0)
        q = SCALE * grid.time
        size = np.square(q) + DATA**2
        return tabled(grid, skip=DATA**2 / size, out=q / np.sqrt(size))

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """The picture at the next level, with noise that is all new; the last has none."""
        row = now.row
        x0 = row["out"] * now.seen.x0 + row["skip"] * now.x
        return row["alpha_next"] * x0 + row["sigma_next"] * now.noise, memory

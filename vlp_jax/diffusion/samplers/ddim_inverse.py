"""DDIM run backwards, from a picture to the noise that it would come from (arXiv:2010.02502, 5.4;
arXiv:2105.05233, appendix F): for editing, and for x_T of an image in unCLIP.

The file exists beside ddim.py because its times rise: strength s makes the first s of its steps.
"""

import jax.numpy as jnp

from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, moved, no_karras, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Grid, Spacing, by_gap


@options
class DdimInverse(Sampler):
    """A step ends at the level that its time names; the network is told that time, and sees x of
    the level below, where the noise is taken to be the same."""

    rises = True

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """DDIM's steps, their ends exchanged, in the other order."""
        no_karras(karras, "ddim_inverse")
        down = by_gap(schedule, steps, spacing)
        return tabled(Grid(down.time[::-1], down.there[::-1], down.here[::-1]))

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """The same picture with more of the same noise."""
        return moved(now.seen, now.row), memory

    def window(self, steps: int, part: Array) -> tuple[Array, Array]:
        """From the picture upwards."""
        return jnp.int32(0), part

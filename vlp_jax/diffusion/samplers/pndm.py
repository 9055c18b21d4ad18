"""Pseudo linear multistep sampling (PNDM, arXiv:2202.09778, eq. 11 and 12; S-PNDM's start), what
latent diffusion calls PLMS.

Adams-Bashforth's combination of up to four outputs takes the place of the noise in DDIM's step. The
first step is made twice, the second time with the mean of the outputs at both its ends, so N steps
are N + 1 calls. The file exists as the sampler of Stable Diffusion 1's released pipelines.
"""

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.options import options
from vlp_jax.core.types import Array
from vlp_jax.diffusion.denoise import Level
from vlp_jax.diffusion.samplers.base import Memory, Now, Plan, Sampler, moved, no_karras, tabled
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Grid, Spacing, by_gap, lower

MIX = np.array(  # of the newest output and those before it, by number of calls made
    [
        [1, 0, 0, 0],
        [1 / 2, 1 / 2, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    np.float32,
)


@options
class Pndm(Sampler):
    """Remembers three outputs, the newest first, and x before the first step.

    Outputs are mixed as they are, then seen: for v that is what diffusers does, too.
    """

    remembers = 4

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """Row 2 i is step i, row 2 i + 1 the same made again.

        A step made again ends on the time that the network was told, T // N below where it is taken
        to begin, as in diffusers; with linspace that is not quite where it did begin.
        """
        no_karras(karras, "pndm")
        grid = by_gap(schedule, steps, spacing)
        at = np.append(grid.time[1:], 0).astype(int)
        begin = np.minimum(at + schedule.times // steps, schedule.times - 1)
        again = grid._replace(
            time=at.astype(float),
            here=schedule.alpha_bar[begin],
            there=lower(schedule, at),
        )
        both = [np.stack(two, 1).reshape(-1) for two in zip(grid[:3], again[:3], strict=True)]
        return tabled(Grid(*both))._replace(calls=steps + 1)

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """DDIM's step with the mixed output."""
        *outs, begun = memory
        again = now.count == 1
        mix = jnp.asarray(MIX)[jnp.minimum(now.count, 4)]
        out = sum(k * one for k, one in zip(mix, (now.out, *outs), strict=True))
        x = jnp.where(again, begun, now.x)
        found = moved(now.see(out, x, Level(now.row["alpha"], now.row["sigma"])), now.row)
        kept = (now.out, *outs[:-1])  # the second call's output is not kept
        outs = [jnp.where(again, old, new) for old, new in zip(outs, kept, strict=True)]
        return found, (*outs, jnp.where(now.count == 0, now.x, begun))

    def window(self, steps: int, part: Array) -> tuple[Array, Array]:
        """One call more than steps, save where there are none."""
        return steps - part, jnp.where(part > 0, steps + 1, steps).astype(jnp.int32)

    def row(self, call: Array, count: Array) -> Array:
        """The second call stands at the end of the step that it makes again, later ones one
        behind."""
        return 2 * (call - (count >= 1)) + (count == 1)

    def calls(self, call: Array, count: Array, steps: int) -> Array | bool:
        """A step that is the only one is not made again."""
        return (count != 1) | (call < steps)

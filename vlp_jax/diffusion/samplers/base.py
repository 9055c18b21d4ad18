"""What a sampler answers: which calls of the network it makes, and what it makes of each.

All numbers of a call are computed on the host in float64 and lie in one table, whose rows the one
scan (diffusion/sample.py) walks, so an update is a few multiplications. The file exists so that
adding a sampler is adding a file.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array
from vlp_jax.diffusion.denoise import Level, Seen
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import Grid, Spacing

Row = dict[str, Array]  # float32[] each, by the names of Plan.table
Memory = tuple[Array, ...]


class Plan(NamedTuple):
    """A sampler's calls.

    table: {name: float[rows]}; time: told to the network; alpha, sigma: level of x before the call,
      alpha_next, sigma_next: after it; and the sampler's own.
    calls: of the network, at most; start: sampling begins with this times N(0, 1).
    """

    table: dict[str, np.ndarray]
    calls: int
    start: float = 1.0


class Now(NamedTuple):
    """One call, made.

    x, out: float32[B, ..., C], before the call, and what the network said of it. spread: its
    learned variance [B, ..., C], or None. row: the table's. count: int32[], calls before this one.
    noise: N(0, 1) as x, or None where the sampler draws none. see: (out, x, level) -> picture
    and noise, thresholds applied.
    """

    x: Array
    out: Array
    spread: Array | None
    row: Row
    count: Array
    noise: Array | None
    see: Callable[[Array, Array, Level], Seen]

    @property
    def level(self) -> Level:
        """Of x."""
        return Level(self.row["alpha"], self.row["sigma"])

    @property
    def seen(self) -> Seen:
        """What the output says."""
        return self.see(self.out, self.x, self.level)


class Sampler:
    """A subclass is `@options`: floats are traced, all else is what a program is compiled for."""

    spacing: ClassVar[Spacing] = "leading"  # where none is asked for
    draws: ClassVar[bool] = False  # adds noise after a call
    rises: ClassVar[bool] = False  # from a picture to noise
    remembers: ClassVar[int] = 0  # arrays shaped as x that it keeps between calls

    def plan(self, schedule: Schedule, steps: int, spacing: Spacing, karras: bool) -> Plan:
        """The calls of N steps."""
        raise NotImplementedError

    def step(self, now: Now, memory: Memory) -> tuple[Array, Memory]:
        """The next x, and what to remember."""
        raise NotImplementedError

    def window(self, steps: int, part: Array) -> tuple[Array, Array]:
        """First call and the one after the last where int32[] `part` of the steps are made."""
        return steps - part, jnp.int32(steps)

    def row(self, call: Array, count: Array) -> Array:
        """The table's row for a call, `count` calls having been made. int32[]"""
        del count
        return call

    def calls(self, call: Array, count: Array, steps: int) -> Array | bool:
        """Whether a call within the window is made. bool[]"""
        del call, count, steps
        return True


def tabled(grid: Grid, **own: np.ndarray) -> Plan:
    """One call per step."""
    levels = {
        "alpha": np.sqrt(grid.here),
        "sigma": np.sqrt(1 - grid.here),
        "alpha_next": np.sqrt(grid.there),
        "sigma_next": np.sqrt(1 - grid.there),
    }
    return Plan({"time": grid.time} | levels | own, len(grid.time), grid.start)


def moved(seen: Seen, row: Row) -> Array:
    """Picture and noise at the next level: DDIM's step, which on sigmas is Euler's."""
    return row["alpha_next"] * seen.x0 + row["sigma_next"] * seen.eps


def no_karras(karras: bool, name: str) -> None:
    """Raises UserError for samplers that walk on the schedule's own times."""
    if karras:
        why = f"sampler {name!r} walks on the schedule's own times"
        raise UserError(f"karras=True: {why}; take euler, heun or dpm_solver")

"""Runs logged steps again from a checkpoint and the recorded data order, and compares every bit.

Equal on the device count, mesh and jaxlib of the run; the file exists so that "this run can be
repeated" is a command and not a belief. It writes nothing.
"""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.data.device import DeviceFeed
from vlp_jax.parallel.mesh import batch_sharding
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.state import Start, State
from vlp_jax.train.trainer import Trainer

METRICS = ("loss", "grad_norm")  # what is compared of a logged step


@dataclasses.dataclass(frozen=True)
class Replay:
    """What came out.

    Attributes:
      start: the step that it went on from (0: fresh weights).
      compared: steps whose log line was compared. checkpoints: steps whose leaves were compared.
      different: one text per difference, in order of step; empty when every bit is the same.
    """

    start: int
    compared: list[int]
    checkpoints: list[int]
    different: list[str]


def replay(
    trainer: Trainer, checkpoints: Checkpoints, begin: Start, lines: dict[int, dict], last: int
) -> Replay:
    """Trains from `begin` to step `last` and compares on the way.

    Args:
      trainer: of the run's own config.
      checkpoints: the run's; complete ones on the way are compared leaf by leaf.
      begin: the state to go on from, and the frozen weights.
      lines: step -> logged line.
      last: the step to end with.
    """
    state, frozen = begin
    start, saved = int(state["step"]), set(checkpoints.steps())
    result = Replay(start, [], [], [])
    feed = DeviceFeed(
        trainer.pipeline.batches(start),
        batch_sharding(trainer.mesh),
        trainer.batch_spec(1),
    )
    with jax.set_mesh(trainer.mesh):
        for step in range(start + 1, last + 1):
            done = trainer.step(state, frozen, next(feed), step - 1)
            state, metrics = jax.block_until_ready(done)
            if step in lines:
                result.compared.append(step)
                result.different.extend(differing_metrics(step, lines[step], metrics))
            if step in saved:
                result.checkpoints.append(step)
                stored = checkpoints.restore(trainer.abstract.state, step)
                result.different.extend(differing_leaves(step, stored, state))
    return result


def differing_metrics(step: int, line: dict[str, Any], metrics: dict[str, jax.Array]) -> list[str]:
    """Texts for the metrics whose logged value is not the new one to the last bit."""
    found = []
    for name in METRICS:
        new = float(metrics[name])
        new = new if math.isfinite(new) else None  # as metrics.jsonl has it
        if name in line and line[name] != new:
            found.append(f"step {step}: {name} was {line[name]!r}, is {new!r}")
    return found


def differing_leaves(step: int, stored: State, state: State) -> list[str]:
    """A text that names the first leaf of the checkpoint that differs, and how many do."""
    old, new = flatten(stored), flatten(state)
    paths = [path for path in old if _digest(old[path]) != _digest(new[path])]
    if not paths:
        return []
    return [f"step {step}: {len(paths)} leaves of the checkpoint differ, first {paths[0]}"]


def _digest(leaf: jax.Array) -> str:
    """Of the parts that this process holds."""
    found = hashlib.sha256()
    for shard in leaf.addressable_shards:
        found.update(np.asarray(shard.data).tobytes())
    return found.hexdigest()


def first_step(checkpoints: Checkpoints, step: int) -> int | None:
    """The newest complete checkpoint before `step`; None means fresh weights.

    Raises:
      UserError: step is not positive.
    """
    if step < 1:
        raise UserError(f"--step={step}: must be at least 1, the first step of a run")
    before = [saved for saved in checkpoints.steps() if saved < step]
    return before[-1] if before else None

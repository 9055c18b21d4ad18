"""Trains a run from a config, or resumes it.

The file exists to turn a config into a Trainer, a workdir and a Loop, in the order that refuses
mistakes first.
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any


def check_folder(workdir: str) -> None:
    """Refuses a workdir that is no path of the file system; a bucket would become a folder `gs:`.

    Raises:
      UserError: an empty one, or an address.
    """
    from vlp_jax.core.errors import UserError

    if not workdir.strip() or "://" in workdir:
        what = "is an address" if workdir.strip() else "is empty"
        raise UserError(f"--workdir={workdir}: {what}; give a folder, of a mounted bucket too")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run: its numbers, the final evaluation's results, and the factor of the cosines, 1
    where there is none.
    """

    workdir: str
    step: int
    seconds: float
    loss: float | None
    parameters: int
    results: dict[str, Any]
    scale: float

    def summary(self) -> dict[str, Any]:
        """{workdir, step, seconds, loss, parameters, eval} as plain values."""
        names = ("workdir", "step", "seconds", "loss", "parameters")
        metrics = {name: result.metrics for name, result in self.results.items()}
        return {**{name: getattr(self, name) for name in names}, "eval": metrics}


def train(config: Any, workdir: Path, force: bool = False, step: int | None = None) -> Outcome:
    """Trains to the end, alone in the workdir.

    Raises:
      UserError: a mistake in config, data or workdir, before anything is compiled, or another
        training in the workdir. RunError: a failure on the way. Preempted: stopped by a signal.
    """
    import jax

    from vlp_jax.train.lock import locked

    first = jax.process_index() == 0  # one lock a job
    with locked(workdir) if first else contextlib.nullcontext():
        return _train(config, workdir, force, step)


def _train(config: Any, workdir: Path, force: bool, step: int | None) -> Outcome:
    import jax

    from vlp_jax.api.networks import opener
    from vlp_jax.api.start import begin, tell_changes
    from vlp_jax.api.weights import scale_of
    from vlp_jax.core.pytree import size
    from vlp_jax.data.text.carried import carried, carry
    from vlp_jax.parallel.hosts import agree, from_first
    from vlp_jax.train.checkpoint import Checkpoints
    from vlp_jax.train.going_back import finish
    from vlp_jax.train.loop import Loop
    from vlp_jax.train.progress import show
    from vlp_jax.train.trainer import Trainer
    from vlp_jax.train.workdir import check_workdir, run_facts, run_files, stretches, write_files

    start = time.monotonic()
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints, config.keep_every)
    if jax.process_index() == 0:
        checkpoints.recover()
        finish(workdir, checkpoints)
    from_first("the workdir is held and whole")
    found = step if step is not None else max(checkpoints.steps(), default=None)
    at = found or 0
    parts = stretches(workdir, at, config.batch_size)
    network = opener(config.sharding, config.mesh.to_dict(), config.eval_batch_size)
    trainer = Trainer(config, offset=parts[-1].offset, network=network)
    agree({**run_facts(config, trainer.pipeline.fingerprint), "--workdir": workdir, "--step": step})
    abstract, _ = trainer.abstract, trainer.jit_step  # what they refuse leaves no trace
    check_workdir(workdir, config, trainer.pipeline.fingerprint, force)
    begun, told = begin(trainer, checkpoints, found)
    texts = {field: carried(made.name) for field, made in trainer.tokenizers.items()}
    texts = {field: one for field, one in texts.items() if one}
    names = {field: one.name for field, one in texts.items()}
    files = run_files(config, trainer.pipeline.fingerprint, parts, trainer.trained.edge, names)
    files |= {"init_from.json": told} if told else {}
    if jax.process_index() == 0:
        tell_changes(trainer, workdir, checkpoints, at)
        carry(workdir, texts)
        if max(checkpoints.steps(), default=0) <= at:  # else the first save writes them
            write_files(workdir, files)
    loop = Loop(trainer, workdir, begun, checkpoints, files)
    count = size(abstract.state["params"]) + size(abstract.frozen)
    show(
        f"{type(trainer.method).__name__}: {count:,} parameters, "
        f"{trainer.pipeline.num_examples:,} examples, "
        f"steps {loop.start} -> {trainer.steps}, {trainer.mesh.size} device(s), compiling ...",
        last=True,
    )
    results = loop.run()
    loss = None if loop.loss is None else float(loop.loss)
    weights = {**begun.frozen, **loop.state["params"]}
    scale = scale_of(trainer.method, weights)
    return Outcome(
        str(workdir), loop.step, round(time.monotonic() - start, 1), loss, count, results, scale
    )

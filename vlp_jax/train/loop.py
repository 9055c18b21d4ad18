"""The one training loop. Its order is a contract and never changes (design section 4):

restore -> evaluate the old state when due -> checkpoint when due (state; the data position is the
step) -> next batch -> dispatch -> log the previous step's metrics -> ... -> final checkpoint ->
final evaluation -> the checkpoint is waited for.

Nothing in the step waits for the host: metrics are read one step late. The file exists as the only
loop of the package.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from vlp_jax.core.errors import RunError
from vlp_jax.data.device import DeviceFeed
from vlp_jax.evals.base import Result
from vlp_jax.parallel.hosts import from_first
from vlp_jax.parallel.mesh import batch_sharding
from vlp_jax.parallel.watchdog import Watchdog
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.evaluate import run_evaluators, scalars
from vlp_jax.train.going_back import give_up
from vlp_jax.train.metrics import Held, Writers, logged, open_writers
from vlp_jax.train.preemption import Preempted, StopSignal
from vlp_jax.train.progress import Meter, evaluation_line, progress_line, show
from vlp_jax.train.state import Start, eval_params
from vlp_jax.train.trainer import Trainer

log = logging.getLogger(__name__)


class Loop:
    """A run in progress.

    Args:
      trainer: the run's parts.
      workdir: an opened workdir. Steps later than the state's that it holds are given up at the
        first save (going_back.py).
      start: the state to go on from, and the frozen weights.
      checkpoints: where to save.
      files: of the workdir, to be written by a run that goes back with its first save.
    """

    def __init__(
        self,
        trainer: Trainer,
        workdir: Path,
        start: Start,
        checkpoints: Checkpoints,
        files: Mapping[str, Any] | None = None,
    ):
        self._files = files or {}
        self.trainer, self.config, self.checkpoints = trainer, trainer.config, checkpoints
        self.state, self.frozen = start
        self.start = self.step = int(self.state["step"])
        self.workdir, self.later = workdir, [s for s in checkpoints.steps() if s > self.start]
        self.watchdog = Watchdog(self.config.get("hang_seconds", 0.0))
        self._logged = logged(workdir / "metrics.jsonl", self.start)
        self._missing = not any(name.startswith("eval/") for name in self._logged)
        due = self._due(self.config.eval_every, after=0)
        self._owed = due and from_first(str(self._missing)) == str(True)
        self._listening = StopSignal()
        self.writers, self._held = Writers([]), Held()
        if jax.process_index() == 0 and self.later:
            self.writers = Writers([self._held])
        elif jax.process_index() == 0:
            self.writers = open_writers(workdir, self.start, self.config)
        self.meter = Meter(self.config.batch_size, trainer.method.flops)
        self.results: dict[str, Result] = {}
        # Simulated devices share one thread pool: the collectives of two steps in flight deadlock.
        self._one_at_a_time = jax.default_backend() == "cpu" and trainer.mesh.size > 1
        self._pending: tuple[int, dict] | None = None
        self.loss: jax.Array | None = None
        self._last_save = time.monotonic()
        self._saved = self.start if self.start else -1

    def run(self) -> dict[str, Result]:
        """Trains to the end. Returns the final evaluation's results.

        Raises:
          Preempted: stopped by a signal, state saved.
          RunError: too many bad steps in a row, damaged data above budget, or a failed save.
        """
        trainer, total = self.trainer, self.trainer.steps
        try:
            step = trainer.step
            batches = trainer.pipeline.batches(self.step)
            feed = DeviceFeed(batches, batch_sharding(trainer.mesh), trainer.batch_spec(1))
            self.meter.restart()
            with self._listening as stop, self.watchdog, jax.set_mesh(trainer.mesh):
                while self.step < total:
                    self._evaluate_when_due()
                    self._save_when_due()
                    self.watchdog.mark(self.step, "data")
                    batch = next(feed)
                    self.meter.wait(feed.waited)
                    self._prepare(batch)
                    self.watchdog.mark(self.step, "step")
                    self._train_step(step, batch)
                    if stop.requested(self.step) and self.step < total:
                        self._stop()
                self._save()  # under way first: an evaluation that fails costs no training
                try:
                    self._evaluate()
                finally:
                    self.checkpoints.wait()
        finally:
            self.writers.close()
        return self.results

    def _prepare(self, batch: dict[str, jax.Array]) -> None:
        """Compiles the step where no batch had this text length yet, or other phases are played,
        outside the measured time."""
        paused = self.meter.pause()
        self.watchdog.mark(self.step, "compile")
        self.trainer.program(batch, self.step)
        self.meter.resume(paused)

    def _train_step(self, step: Callable, batch: dict[str, jax.Array]) -> None:
        with jax.transfer_guard("disallow"):
            self.state, metrics = step(self.state, self.frozen, batch, self.step)
        if self._one_at_a_time:
            jax.block_until_ready(self.state)
        self.step += 1
        self._log_pending()
        self._pending, self.loss = (self.step, metrics), metrics["loss"]
        self.meter.step(batch["text"].shape[1] if "text" in batch else None)

    def _log_pending(self) -> None:
        """Reads and writes the previous step's metrics when that step is a logged one."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        if step % self.config.max_bad_steps == 0:
            self._stop_when_bad(step, int(metrics["skipped_in_row"]))
        if step % self.config.log_every and step not in (1, self.trainer.steps):
            return
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        values |= self.meter.report()
        pipeline = self.trainer.pipeline
        values["epoch"] = pipeline.seen(step) / pipeline.num_examples
        values["dropped"] = sum(pipeline.dropped.values())
        self.writers.write(step, values)
        if jax.process_index() == 0:
            show(progress_line(step, self.trainer.steps, values), last=step == self.trainer.steps)
        self._stop_when_bad(step, int(values["skipped_in_row"]))

    def _stop_when_bad(self, step: int, in_row: int) -> None:
        """Looked at on logged steps, and often enough that no run is bad for 2 max_bad_steps."""
        if in_row >= self.config.max_bad_steps:
            raise RunError(
                f"step {step}: {in_row} steps in a row "
                "had a loss or gradient that is not finite "
                f"(max_bad_steps={self.config.max_bad_steps}); "
                "the weights are those of the last good step"
            )

    def _due(self, every: int, after: int) -> bool:
        return every > 0 and self.step % every == 0 and self.step > after

    def _evaluate_when_due(self) -> None:
        """When due, and once on resume where a stop came between the step and its evaluation."""
        if self._owed or self._due(self.config.eval_every, self.start):
            self._owed = False
            self._evaluate()

    def _evaluate(self) -> None:
        if not self.trainer.evaluators:
            return
        paused = self.meter.pause()
        self.watchdog.mark(self.step, "evaluate")
        fns = self.trainer.embedder.bind(eval_params(self.state, self.frozen), self.state["extra"])
        fns = {name: self._stopping(self.watchdog.marking(fn)) for name, fn in fns.items()}
        self.results = run_evaluators(self.trainer.evaluators, fns, self.trainer.trained)
        values = scalars(self.results)
        if self.loss is not None:
            values = {"loss": float(self.loss), **values}
        elif "loss" in self._logged:
            values = {"loss": self._logged["loss"], **values}
        again = self.step == self.start == self.trainer.steps and not self._missing
        if not again:  # a finished run
            self.writers.write(self.step, values)
        if jax.process_index() == 0:
            for name, result in self.results.items():
                log.info("step %d  %s", self.step, evaluation_line(name, result.metrics))
        self.meter.resume(paused)

    def _stopping(self, fn: Callable) -> Callable:
        """A function of an evaluation, before whose batches the run may be stopped. Of several
        processes none may do so alone: they stop after the next step."""

        def call(*words: Any, **options: Any) -> Any:
            if self._listening.heard:
                self._stop()
            return fn(*words, **options)

        return call

    def _save_when_due(self) -> None:
        minutes = self.config.checkpoint_minutes
        late = minutes > 0 and time.monotonic() - self._last_save > 60 * minutes
        late = late and jax.process_count() == 1
        if late or self._due(self.config.checkpoint_every, self.start):
            self._save()

    def _save(self) -> None:
        self._log_pending()  # a run resumed from here must find this step's line in the log
        paused = self.meter.pause()
        self.watchdog.mark(self.step, "save")
        if self._saved != self.step:
            self.checkpoints.save(self.step, self.state, self.frozen)
            self._saved, self._last_save = self.step, time.monotonic()
        self._give_up_later()
        self.meter.resume(paused)

    def _give_up_later(self) -> None:
        if not self.later:
            return
        self.checkpoints.wait()
        later, self.later = [step for step in self.later if step != self.step], []
        if jax.process_index() == 0:
            what = (self.start, later, self._held.lines, self._files)
            give_up(self.workdir, self.checkpoints, *what)
            self.writers = open_writers(self.workdir, self.start, self.config, self._held)

    def _stop(self) -> None:
        self._log_pending()
        self._save()
        self.checkpoints.wait()
        raise Preempted(
            f"stopped at step {self.step} of {self.trainer.steps}, state saved; "
            "run the same command again"
        )

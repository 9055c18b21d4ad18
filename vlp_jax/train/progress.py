"""What a person sees while a run goes on: one line with step, loss, speed, waiting for data, ETA
and MFU.

The file exists so that the loop measures and this prints.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

# Dense peak FLOP/s per device in the compute type of pods and GPUs (bfloat16), from the vendors'
# data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(kind: str) -> float:
    """bfloat16 peak of one device of that `device_kind`; 0 where unknown. The longest matching name
    counts.
    """
    names = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else 0.0


def duration_text(seconds: float) -> str:
    """3725 -> '1:02:05', 65 -> '1:05'."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Meter:
    """Speed between two reports, from wall time.

    Args:
      batch_size: examples per step.
      flops: text length -> forward model FLOPs of one example; training counts three times that
        (0 hides MFU). The length is the one that ran: cut padding is no work done.
    """

    def __init__(self, batch_size: int, flops: Callable[[int | None], float]):
        self._batch, self._flops = batch_size, functools.cache(flops)
        self._peak = peak_flops(jax.devices()[0].device_kind) * jax.device_count()
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted."""
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0
        self._done = 0.0

    def wait(self, seconds: float) -> None:
        """Counts a wait for a batch that has just ended: told later, it could fall between two
        reports and make the second one's waits longer than its time.
        """
        self._waited += seconds

    def step(self, text_length: int | None = None) -> None:
        """Counts one step, of texts that long."""
        self._steps += 1
        self._done += 3 * self._flops(text_length) * self._batch

    def report(self) -> dict[str, float]:
        """Speed since the last report: examples_per_s, step_seconds, data_wait (share), mfu where
        known; resets.
        """
        now = time.perf_counter()
        seconds, steps = max(now - self._since, 1e-9), max(self._steps, 1)
        rate = self._steps * self._batch / seconds
        found = dict(
            examples_per_s=rate, step_seconds=seconds / steps, data_wait=self._waited / seconds
        )
        if self._done and self._peak:
            found["mfu"] = self._done / seconds / self._peak
        self.restart()
        return found

    def pause(self) -> float:
        """Time stamp to hand to `resume` after work that is no training (evaluation, a save)."""
        return time.perf_counter()

    def resume(self, paused: float) -> None:
        """Leaves the time since `paused` out of the speed."""
        self._since += time.perf_counter() - paused


def progress_line(step: int, total: int, scalars: dict[str, float]) -> str:
    """One status line, e.g. `step 120/2000  loss 3.214  1.2e+03 ex/s  wait 2%  ETA 5:12`."""
    left = (total - step) * scalars["step_seconds"]
    parts = [f"step {step}/{total}", f"loss {scalars['loss']:.4f}", f"lr {scalars['lr']:.2e}"]
    parts += [f"{scalars['examples_per_s']:.0f} ex/s", f"wait {scalars['data_wait']:.0%}"]
    if "mfu" in scalars:
        parts.append(f"MFU {scalars['mfu']:.1%}")
    if scalars.get("skipped"):
        parts.append(f"skipped {scalars['skipped']:.0f}")
    return "  ".join([*parts, f"ETA {duration_text(left)}"])


class Evaluating:
    """Says that an evaluation runs, with a line every second, in a log every ten.

    Args:
      names: of its evaluators, in order.
    """

    def __init__(self, names: Iterable[str]):
        self.names = ", ".join(names)
        self.start = self.shown = time.perf_counter()
        show(f"evaluate {self.names} ...")

    def telling(self, name: str, function: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A function of an evaluation that tells after its batches how many rows it has had of
        evaluator `name`, those of other processes included."""
        rows = 0

        def call(batch: Mapping[str, Any], *words: Any, **how: Any) -> Any:
            nonlocal rows
            found = fn(batch, *words, **how)
            rows += int((batch["index"] >= 0).sum()) * jax.process_count()
            now = time.perf_counter()
            if now - self.shown >= (1 if sys.stderr.isatty() else 10):
                self.shown, spent = now, duration_text(now - self.start)
                show(f"evaluate {name}: {function} {rows:,} rows  {spent}")
            return found

        return call

    def end(self) -> None:
        """Says how long it took."""
        spent = duration_text(time.perf_counter() - self.start)
        show(f"evaluated {self.names} in {spent}", last=True)


def evaluation_line(name: str, metrics: Mapping[str, float]) -> str:
    """One line of an evaluator's numbers, e.g. `knn  top1_k1 0.41  majority_top1 0.2`; chance
    levels are left to the report.
    """
    shown = {key: value for key, value in metrics.items() if not key.startswith("chance_")}
    return "  ".join([name, *(f"{key} {value:.4g}" for key, value in shown.items())])


def show(line: str, last: bool = False) -> None:
    """Prints a status line to stderr, in the first process of a job; on a terminal it replaces the
    one before.
    """
    if jax.process_index():
        return
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K" + line + ("\n" if last else ""))
    else:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()

"""SIGTERM and SIGINT: finish the step, save, leave with a documented exit code (75, "try again").

With several processes the first signal anywhere makes all of them stop at the same step; the
runtime's coordination service agrees on it. The file exists so that the loop asks one question per
step.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: saved, run the same command again


class Preempted(Exception):
    """The run was asked to stop and has saved; the command line exits with code 75."""

    exit_code = EXIT_PREEMPTED


class StopSignal:
    """Listens while a run goes on; `with StopSignal() as stop: ... stop.requested(step)`.

    One around several runs hears what a run heard too late to act on.
    """

    def __init__(self) -> None:
        self._seen = threading.Event()
        self._old: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
                if (outer := self._outer(number)) is not None and outer.heard:
                    self._seen.set()
        return self

    def _outer(self, number: int) -> "StopSignal | None":
        found = getattr(self._old[number], "__self__", None)
        return found if isinstance(found, StopSignal) else None

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self._seen.is_set():  # a second signal means now
            raise KeyboardInterrupt
        self._seen.set()
        if (outer := self._outer(number)) is not None:
            outer._seen.set()

    @property
    def heard(self) -> bool:
        """Whether this process alone was asked to stop."""
        return self._seen.is_set()

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._seen.is_set()

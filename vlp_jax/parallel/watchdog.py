"""Notices a run that hangs: stacks of all threads after T seconds without a step, the end after 2T.

In a job of several, process 0 decides and names the slow rank (pulse.py). A thread that holds the
interpreter's lock for ever is met by faulthandler's own timer, which needs no lock. The file exists
so that a hang costs minutes and leaves its cause in the log, not a night of a pod.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from vlp_jax.parallel import pulse


class Watchdog:
    """`with Watchdog(600) as dog: dog.mark(step, phase)` wherever the loop gets on.

    Args:
      seconds: T; 0 switches it off.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._place, self._since, self._dumped = (0, "start"), time.monotonic(), False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.seconds > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.seconds > 0:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def mark(self, step: int, phase: str) -> None:
        """Says where the loop is; phase: one of pulse.PHASES."""
        self._place, self._since, self._dumped = (step, phase), time.monotonic(), False
        beat = pulse.current()
        if beat is not None:
            beat.place = self._place

    def marking(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn`, every call of which counts as getting on."""

        def call(*words: Any, **how: Any) -> Any:
            self.mark(*self._place)
            return fn(*words, **how)

        return call

    def _watch(self) -> None:
        turn = time.monotonic()
        while not self._stop.wait(self.seconds / 10):
            turn, gap = time.monotonic(), time.monotonic() - turn
            if gap > self.seconds / 2:  # this process itself was stopped: a debugger, a frozen host
                self._since += gap
            with contextlib.suppress(OSError, ValueError, AttributeError):
                faulthandler.dump_traceback_later(2 * self.seconds + 5, exit=True, file=_stderr())
            late = time.monotonic() - self._since
            step, phase = self._place
            if phase in pulse.UNTIMED or late < self.seconds:
                continue
            if not self._dumped:
                self._dumped = True
                self._dump(f"no step for {late:.1f} s: in {phase!r} of step {step}")
            if late > 2 * self.seconds:
                self._end(f"hangs in {phase!r} of step {step}")

    def _dump(self, what: str) -> None:
        beat = pulse.current()
        name = "" if beat is None else f"rank {beat.rank}: "
        slow = beat.slowest() if beat else None
        slow = f"; rank {slow[0]} {slow[1]}" if slow else ""
        end = f"; the run ends when it comes to {2 * self.seconds:g} s (hang_seconds)"
        os.write(2, f"warning: {name}{what}{slow}{end}\n".encode())
        faulthandler.dump_traceback(file=_stderr(), all_threads=True)

    def _end(self, what: str) -> None:
        beat = pulse.current()
        if beat is None:
            os.write(2, f"error: the run {what}; it ends here\n".encode())
            pulse.quit_now(pulse.EXIT_LOST)
        slow = beat.slowest()
        if slow is not None:
            beat.end(*slow)


def _stderr() -> Any:
    return sys.__stderr__

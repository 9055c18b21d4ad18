"""A long command that is asked to stop: it does between two batches, of a job between two parts, in
a line, with exit code 75.

The file exists so that what keeps whole parts (an index, a cache) ends as a training does.
"""

import contextlib
from collections.abc import Iterator

from vlp_jax.train.preemption import Preempted, StopSignal


class Check:
    """Raises Preempted once a signal was heard: called between batches, where one process asks
    itself, and as `part()` before every part, where all processes of a job stop alike."""

    def __init__(self, stop: StopSignal, kept: str):
        self._stop, self._kept, self._parts = stop, kept, 0

    def __call__(self) -> None:
        if self._stop.heard:
            self._end()

    def part(self) -> None:
        """All processes call it equally often."""
        self._parts += 1
        if self._stop.requested(self._parts):
            self._end()

    def _end(self) -> None:
        raise Preempted(f"stopped, {self._kept}; run the same command again")


@contextlib.contextmanager
def stoppable(kept: str) -> Iterator[Check]:
    """Listens to SIGTERM, and in a single process to SIGINT. kept: what the line says of the work
    that is done."""
    with StopSignal() as stop:
        yield Check(stop, kept)

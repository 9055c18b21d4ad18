"""A long command that is asked to stop: it does between two batches, in a line, with exit code 75.

The file exists so that what keeps whole parts (an index, a cache) ends as a training does.
"""

import contextlib
from collections.abc import Callable, Iterator

from vlp_jax.train.preemption import Preempted, StopSignal


@contextlib.contextmanager
def stoppable(kept: str) -> Iterator[Callable[[], None]]:
    """Listens to SIGTERM and SIGINT, in a job of one process; gives check(), which raises Preempted
    once one was heard. kept: what the line says of the work that is done."""
    with StopSignal() as stop:

        def check() -> None:
            if stop.heard:
                raise Preempted(f"stopped, {kept}; run the same command again")

        yield check

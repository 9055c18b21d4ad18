"""Faults planted in a process, `KIND:STEP`, so that every moment is hit for certain, not by luck.

Kinds: `sigterm` after a training step; `fail` (an error) and `sleep` before one; SIGKILL at one
moment of the save of a step: `flight` (the arrays are on their way), `committed` (data in place,
digests not begun), `digest` (digests written, not in place), `logged` (all complete, the next step
not begun), `later` (`later:STEP:SECONDS` after all is complete, wherever the run is by then),
`prune` (an old step half removed). The file exists for forks.py to plant them.
"""

import os
import signal
import threading
import time
from pathlib import Path


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(function, when, action):
    """`function`, then `action` when `when(*arguments)`."""

    def wrapped(self, *arguments):
        result = function(self, *arguments)
        if when(self, *arguments):
            action()
        return result

    return wrapped


def before(function, when, action):
    """`action` when `when(*arguments)`, then `function`."""

    def wrapped(self, *arguments, **named):
        if when(self, *arguments):
            action()
        return function(self, *arguments, **named)

    return wrapped


def plant(fault: str) -> None:
    """Patches the classes of this process for `KIND:STEP`."""
    kind, step, *seconds = fault.split(":")
    step = int(step)
    from vlp_jax.train.checkpoint import Checkpoints
    from vlp_jax.train.loop import Loop

    at = lambda self, number, *_: number == step  # noqa: E731
    if kind == "flight":
        Checkpoints.save = after(Checkpoints.save, at, die)
    elif kind == "committed":
        Checkpoints._write_digests = before(Checkpoints._write_digests, at, die)
    elif kind == "digest":
        ours = lambda path, target: target.name == f"{step}.json"  # noqa: E731
        Path.replace = before(Path.replace, ours, die)
    elif kind == "later":
        ours = lambda path, target: target.name == f"{step}.json"  # noqa: E731
        timer = threading.Timer(float(*seconds), die)
        timer.daemon = True
        Path.replace = after(Path.replace, ours, timer.start)
    elif kind == "logged":

        def save(self):
            Loop.save_alone(self)
            self.checkpoints.wait()
            if self.step == step:
                die()

        Loop.save_alone, Loop._save = Loop._save, save
    elif kind == "prune":
        digest = lambda path, **_: path.name == f"{step}.json"  # noqa: E731
        unlink = Path.unlink

        def remove(self, missing_ok=False):
            there = self.exists()
            unlink(self, missing_ok)
            if there and digest(self):
                die()

        Path.unlink = remove
    elif kind == "sigterm":

        def term() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(2)  # the other rank hears of it through the coordination service

        Loop._train_step = after(Loop._train_step, lambda loop, *_: loop.step == step, term)
    elif kind == "fail":
        Loop._prepare = before(Loop._prepare, lambda loop, *_: loop.step == step, fail)
    elif kind == "sleep":
        Loop._prepare = before(Loop._prepare, lambda loop, *_: loop.step == step, nap)
    else:
        raise ValueError(kind)


def fail() -> None:
    """An error of this process alone."""
    from vlp_jax.core.errors import RunError

    raise RunError("the disk of this host is gone")


def nap() -> None:
    """In place of a loader that waits for a dead disk."""
    time.sleep(100)

"""A command line with a fault planted: `FAULT=KIND:STEP[:RANK] python faulty.py train ...`.

Kinds: `sigterm` after a training step; `sigkill` at one moment of the save of a step: `flight` (the
arrays are on their way), `committed` (data in place, digests not begun), `digest` (digests written,
not in place), `logged` (all complete, the next step not begun), `prune` (an old step half removed).
The file exists so that every moment is hit for certain, not by luck.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from runs import ROOT, environment, finish, start


def start_faulty(fault: str, *arguments: object, **extra: str) -> subprocess.Popen:
    """The command as a child with the fault `KIND:STEP[:RANK]`; extra: environment variables."""
    command = [sys.executable, __file__, *map(str, arguments)]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "train")))
    env = {**environment(), "FAULT": fault, **extra, "PYTHONPATH": path}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    return subprocess.Popen(command, env=env, **pipes)


def run_faulty(fault: str, *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    return finish(start_faulty(fault, *arguments))


def run_command(*arguments: object) -> tuple[int, str, str]:
    """The same command without a fault."""
    return finish(start(*arguments))


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


def plant(kind: str, step: int) -> None:
    """Patches the classes of this process."""
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
    else:
        raise ValueError(kind)


if __name__ == "__main__":
    kind, step, *rank = os.environ["FAULT"].split(":")
    if not rank or rank == [os.environ.get("JAX_PROCESS_ID")]:
        plant(kind, int(step))
    from vlp_jax.__main__ import main

    sys.exit(main())

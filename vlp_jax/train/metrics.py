"""Where metrics go: metrics.jsonl always, TensorBoard always, Weights & Biases when `wandb` names a
project.

The file exists so that the loop hands over one dict per step and knows no writer.
"""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from vlp_jax.core.errors import UserError


class Writer(Protocol):
    """Receives scalars of a step; prefix-free names such as `loss` or `eval/retrieval/i2t_r1`."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """One JSON object a line; lines after `resume_step` of an interrupted run are cut, so steps
    never repeat.
    """

    def __init__(self, path: Path, resume_step: int):
        if path.exists():
            kept = [
                line for line in path.read_text().splitlines(True) if _step_of(line) <= resume_step
            ]
            partial = path.with_name(path.name + ".tmp")
            partial.write_text("".join(kept))
            partial.replace(path)  # whole or not at all
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (open as long as the run)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends {"step": ..., **scalars, "time": seconds since the epoch}; NaN and infinities,
        which JSON lacks, as null.
        """
        self._file.write(
            json.dumps({"step": step, **_plain(scalars), "time": round(time.time(), 3)}) + "\n"
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _plain(scalars: Mapping[str, float]) -> dict[str, float | None]:
    finite = lambda value: value is not None and math.isfinite(value)  # noqa: E731
    return {name: value if finite(value) else None for name, value in scalars.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without one torn by a kill; [] where there is no file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if _step_of(line) < math.inf]


def logged(path: Path, step: int) -> dict[str, Any]:
    """All that the log at `path` says of a step; {} where it says nothing."""
    lines = [line for line in read_lines(path) if line["step"] == step]
    return {name: value for line in lines for name, value in line.items()}


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line torn by a kill


class TensorBoardWriter:
    """Scalars under WORKDIR/tensorboard."""

    def __init__(self, folder: Path):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=30)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds every finite scalar; the package prints a complaint about each other one."""
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run that resumes with its folder."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"wandb={project}: install the extra with `pip install 'vlp_jax[wandb]'`"
            ) from error
        name = folder.resolve().name
        self._run = wandb.init(
            project=project,
            id=name,
            name=name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Logs the dict."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class Writers:
    """Fans out to all writers; on other processes than the first it is empty."""

    def __init__(self, writers: list[Writer]):
        self._writers = writers

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hands the scalars to every writer."""
        for writer in self._writers:
            writer.write(step, scalars)

    def close(self) -> None:
        """Closes every writer."""
        for writer in self._writers:
            writer.close()


def open_writers(workdir: Path, resume_step: int, wandb: str, config: Mapping[str, Any]) -> Writers:
    """The writers of a run on its first process.

    Raises:
      UserError: `wandb` names a project but the package is not installed.
    """
    writers: list[Writer] = [
        JsonlWriter(workdir / "metrics.jsonl", resume_step),
        TensorBoardWriter(workdir / "tensorboard"),
    ]
    if wandb:
        writers.append(WandbWriter(wandb, workdir, config))
    return Writers(writers)

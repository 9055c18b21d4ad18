"""Where metrics go: metrics.jsonl always, TensorBoard always, Weights & Biases when `wandb` names a
project.

The file exists so that the loop hands over one dict per step and knows no writer.
"""

import json
import math
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vlp_jax.core.errors import UserError
from vlp_jax.core.strict_json import dumps


class Writer(Protocol):
    """Receives scalars of a step, `loss` or `eval/retrieval/i2t_r1`, and `time`, in seconds since
    the epoch.
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def cut_log(path: Path, step: int, more: Iterable[Mapping[str, Any]] = ()) -> None:
    """Cuts a metrics.jsonl after a step and appends `more`, in one piece or not at all."""
    text = path.read_text() if path.exists() else ""
    lines = [line for line in text.splitlines() if _step_of(line) <= step]
    partial = path.with_name(path.name + ".tmp")
    partial.write_text("".join(f"{line}\n" for line in [*lines, *map(dumps, more)]))
    partial.replace(path)


class JsonlWriter:
    """One JSON object a line; lines after `resume_step` of an interrupted run are cut, so steps
    never repeat. NaN and infinities, which JSON lacks, are null.
    """

    def __init__(self, path: Path, resume_step: int):
        cut_log(path, resume_step)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (open as long as the run)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends {"step": ..., **scalars}."""
        self._file.write(dumps({"step": step, **scalars}) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


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
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line torn by a kill


class TensorBoardWriter:
    """Scalars under WORKDIR/tensorboard; it shows no earlier ones after `resume_step`."""

    def __init__(self, folder: Path, resume_step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=30, purge_step=resume_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds every finite scalar; the package prints a complaint about each other one."""
        for name, value in _finite(scalars).items():
            self._writer.add_scalar(name, value, step, walltime=scalars.get("time"))

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()


def _finite(scalars: Mapping[str, float]) -> dict[str, float]:
    """What can be drawn over the steps."""
    return {name: x for name, x in scalars.items() if name != "time" and math.isfinite(x)}


def wandb_id(folder: Path) -> str:
    """The run's name at Weights & Biases, made once: `folder`/wandb_id keeps it, so that equal or
    renamed folders are no mix-up.
    """
    file = folder / "wandb_id"
    if not file.exists():
        partial = file.with_name(file.name + ".tmp")
        partial.write_text(secrets.token_hex(8) + "\n")
        partial.replace(file)
    return file.read_text().strip()


class WandbWriter:
    """A Weights & Biases run that resumes with its folder, drawn over our `step`: W&B's own counter
    only grows, and would drop what a run that has gone back logs again.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"wandb={project}: install the extra with `pip install 'vlp_jax[wandb]'`"
            ) from error
        self._run = wandb.init(
            project=project,
            id=wandb_id(folder),
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Logs the finite scalars with their step."""
        self._run.log({"step": step, **_finite(scalars)})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class Writers:
    """Fans out to all writers; on other processes than the first it is empty."""

    def __init__(self, writers: list[Writer]):
        self._writers = writers

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hands the scalars and the time to every writer."""
        scalars = {**scalars, "time": scalars.get("time", round(time.time(), 3))}
        for writer in self._writers:
            writer.write(step, scalars)

    def close(self) -> None:
        """Closes every writer."""
        for writer in self._writers:
            writer.close()


class Held:
    """A writer that keeps what it is given, while a run that went back has saved nothing."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, Mapping[str, float]]] = []

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Keeps the scalars."""
        self.lines.append((step, scalars))

    def close(self) -> None:
        """Leaves the log as it was: without a save, a run that went back has changed nothing."""


def open_writers(
    workdir: Path, resume_step: int, config: Mapping[str, Any], held: Held | None = None
) -> Writers:
    """The writers of a run on its first process, to go on after `resume_step`; what was held
    stands in metrics.jsonl already (going_back.py) and goes to the others.

    Raises:
      UserError: `config.wandb` names a project but the package is not installed.
    """
    lines = held.lines if held else []
    log = JsonlWriter(workdir / "metrics.jsonl", max([resume_step, *(step for step, _ in lines)]))
    shown: list[Writer] = [TensorBoardWriter(workdir / "tensorboard", resume_step)]
    if config["wandb"]:
        shown.append(WandbWriter(config["wandb"], workdir, config))
    for step, scalars in lines:
        Writers(shown).write(step, scalars)
    return Writers([log, *shown])

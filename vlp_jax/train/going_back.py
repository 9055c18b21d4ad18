"""Going back: a run that goes on from an older checkpoint gives up what lies after it.

It does so once its own first checkpoint is complete; until then nothing in the workdir changes, and
a run that ends before goes on from the newest checkpoint again. Then a record, written in one
piece, says what is given up and what was logged instead, and a start that finds one finishes what a
kill cut off. The file exists because a mistyped `--step` must not cost a run, and a meant one must
not be undone by the next start.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.metrics import cut_log
from vlp_jax.train.workdir import write_files, write_json

RECORD = "going_back.json"


def give_up(
    workdir: Path,
    checkpoints: Checkpoints,
    start: int,
    later: Iterable[int],
    logged: Iterable[tuple[int, Mapping[str, Any]]],
    files: Mapping[str, Any],
) -> None:
    """Removes the checkpoints of steps `later`, puts `logged` in the place of what the log says
    after step `start` and writes `files`; called when the first checkpoint after going back is
    complete.
    """
    lines = [{"step": step, **scalars} for step, scalars in logged]
    record = {"start": start, "later": list(later), "lines": lines, "files": files}
    write_json(workdir / RECORD, record)
    finish(workdir, checkpoints)


def finish(workdir: Path, checkpoints: Checkpoints) -> None:
    """Carries out a record, where there is one; it may have been begun."""
    file = workdir / RECORD
    if not file.is_file():
        return
    record = json.loads(file.read_text())
    write_files(workdir, record["files"])
    cut_log(workdir / "metrics.jsonl", record["start"], record["lines"])
    checkpoints.remove(record["later"])
    file.unlink()

"""Runs the cells of a study, each in a workdir of its own, and sums up what was measured.

The file exists as the one runner of all studies: an interrupted one goes on where it stopped.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LENGTHS = ("steps", "optim.warmup_steps", "optim.lr")  # 0 or 1 where nothing is to be learnt


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be repeated.

    Attributes:
      study: its name in experiments/, or a folder that holds a recipe.py.
      full: the published sizes and lengths.
      only: comma-separated names of cells; "" is all.
      seeds: runs of every cell.
      out: folder; default runs/STUDY, of the full form runs/STUDY_full.
      data: folder of Fashion-MNIST for the small form, "" for the embedded emoji.
      changes: {config key: value} of every cell.
    """

    study: str
    full: bool = False
    only: str = ""
    seeds: int = 1
    out: str = ""
    data: str = ""
    changes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.out or f"runs/{Path(self.study).name}" + "_full" * self.full)


class Hooks(NamedTuple):
    """f() -> {measure: number}: `before` a cell is trained, writing what it reads, and `after`."""

    before: Callable[[], Mapping[str, float]] = dict
    after: Callable[[], Mapping[str, float]] = dict


NOTHING = Hooks()


def reproduce(request: Request) -> dict[str, Any]:
    """Runs a study, prints and writes its results, and returns them as plain values.

    Raises:
      UserError: a mistake in the request or in any cell's config, before anything is trained.
    """
    from vlp_jax.api.study import data_set, load_study
    from vlp_jax.core.errors import UserError
    from vlp_jax.parallel.startup import first_process, start_jax

    study = load_study(request.study, request.full, data_set(request.data))
    names = chosen(request.only, list(study.cells))
    if request.seeds < 1:
        raise UserError(f"--seeds={request.seeds}: must be at least 1")
    start_jax()
    runs = check_configs(study, names, request.seeds, request.changes, request.folder)
    if study.prepare:
        study.prepare(names)
    found = summary(study, run_cells(study, runs, request.folder), names)
    used = {"data": request.data or "the embedded emoji", "changes": dict(request.changes)}
    used |= {"notes": list(study.notes)}
    outcome = {"study": request.study, "full": request.full, **used, **found}
    if first_process():
        from vlp_jax.report.study import write_study

        write_study(study.title, outcome, str(request.folder), draw=study.draw)
    return outcome


def list_studies(full: bool = False) -> list[dict[str, Any]]:
    """[{study, title, cells, minutes of the small form or None}] of those in experiments/."""
    from vlp_jax.api.study import DataSet, load_study, studies

    found = []
    for name in studies():
        study = load_study(name, full, DataSet())
        row = {"study": name, "title": study.title, "cells": len(study.cells)}
        found.append(row | {"minutes": study.minutes or None})
    return found


def list_cells(request: Request) -> dict[str, Any]:
    """A study by its cells: {study, full, title, cells: [{cell, from: the one whose weights it
    starts from, aside: is no row of the paper's, paper: {column: number}}]}. Nothing is run.

    Raises:
      UserError: no such study.
    """
    from vlp_jax.api.study import data_set, load_study

    study = load_study(request.study, request.full, data_set(request.data))
    cells = [
        {"cell": name, "from": cell.start, "aside": cell.aside, "paper": dict(cell.paper)}
        for name, cell in study.cells.items()
    ]
    named = {"study": request.study, "full": request.full, "title": study.title}
    return {**named, "cells": cells}


def chosen(only: str, cells: list[str]) -> list[str]:
    """The cells that --only names, in the table's order; all where it is empty. Names may have
    commas: the longest that fits is meant.

    Raises:
      UserError: a name that the study lacks.
    """
    from vlp_jax.core.errors import UserError, nearest

    wanted, rest = [], only.strip(", ")
    while rest:
        fits = (name for name in cells if f"{rest},".startswith(f"{name},"))
        name = max(fits, key=len, default="") or rest.split(",")[0].strip()
        if name not in cells:
            raise UserError(f"--only={name}: no such cell{nearest(name, cells)}")
        wanted.append(name)
        rest = rest[len(name) :].lstrip(", ")
    return [name for name in cells if name in wanted or not wanted]


def check_configs(
    study: Any, names: list[str], seeds: int, overrides: Mapping[str, str], out: Path | str = "runs"
) -> dict[tuple[str, int], Any]:
    """{(cell, seed): config}, seed by seed, each of whose methods and optimisers could be built.

    Raises:
      UserError: a mistake in a recipe or an override.
    """
    from vlp_jax.core.errors import UserError
    from vlp_jax.methods.base import make_method
    from vlp_jax.optim.optimizer import make_optimizer

    for key in overrides:
        values = {str(cell.changes.get(key, "")) for cell in study.cells.values()}
        if len(values) > 1 and key not in LENGTHS:
            raise UserError(f"--config.{key}: the cells of this study differ in it; see --only")
    runs = {}
    for seed in range(seeds):
        for name in names:
            runs[name, seed] = config = study.config(name, seed, overrides, out)
            make_method(config.method), make_optimizer(config.optim)
    return runs


def run_cells(
    study: Any, runs: Mapping[tuple[str, int], Any], out: Path
) -> dict[str, list[dict[str, float]]]:
    """{cell: measures of each seed}; a cell that `out` holds already is not run again.

    Raises:
      UserError: a cell whose start is neither in `runs` nor in `out`, before anything is trained.
      Preempted: a signal between two cells.
    """
    from vlp_jax.train.preemption import Preempted, StopSignal
    from vlp_jax.train.progress import duration_text, show

    for (name, seed), config in runs.items():
        cell = study.cells[name]
        for other in filter(None, (cell.start, *cell.needs)):
            check_there(other, seed, runs, out)
        if cell.start:
            config.init_from = start_of(cell.start, seed, out, cell.start_at)
    found: dict[str, list[dict[str, float]]] = {}
    took: list[float] = []
    with StopSignal() as stop:
        for index, ((name, seed), config) in enumerate(runs.items()):
            rest = sum(took) / len(took) * (len(runs) - index) if took else 0
            eta = f", ETA {duration_text(rest)}" if took else ""
            show(f"cell {index + 1} of {len(runs)}: {name}, seed {seed}{eta}", last=True)
            start = time.monotonic()
            cell = study.cells[name]
            place = functools.partial(folder_of, seed=seed, out=out)
            hooks = Hooks(*(
                functools.partial(hook, place, out, seed) if hook else dict
                for hook in (cell.before, cell.after)
            ))  # fmt: skip
            follow_ups = {
                name: dataclasses.replace(run, changes={**run.changes, **cell.then})
                for name, run in ({} if cell.aside else study.follow_ups).items()
            }
            measures, new = run_cell(config, follow_ups, folder_of(name, seed, out), hooks)
            found.setdefault(name, []).append(measures)
            took += [time.monotonic() - start] * new
            if stop.heard and index + 1 < len(runs):
                raise Preempted(f"stopped after {name}, seed {seed}; run the same command again")
    return found


def folder_of(cell: str, seed: int, out: Path) -> Path:
    """The workdir of a run of the table."""
    return out / "cells" / cell.replace(" / ", "_x_").replace(" ", "_") / f"seed{seed}"


def start_of(cell: str, seed: int, out: Path, paths: str) -> str:
    """`init_from` of a run that starts from some paths of `cell`."""
    return f"{folder_of(cell, seed, out)}{paths and ':'}{paths}"


def check_there(cell: str, seed: int, runs: Mapping[tuple[str, int], Any], out: Path) -> None:
    """Raises UserError where a cell that another needs will not be there."""
    from vlp_jax.core.errors import UserError

    there = (folder_of(cell, seed, out) / "measures.json").is_file()
    if (cell, seed) not in runs and not there:
        raise UserError(f"--only: a cell starts from {cell!r}, which {out} lacks; name it as well")


def run_cell(
    config: Any,
    follow_ups: Mapping[str, Any],
    folder: Path,
    hooks: Hooks = NOTHING,
) -> tuple[dict[str, float], bool]:
    """Trains and evaluates a cell and its follow-ups, or reads what `folder` holds of them.

    Args:
      hooks: what is done around the training; each gives more measures.

    Returns:
      ({measure: number}, whether anything was run).

    Raises:
      UserError: the folder holds a run of another config.
    """
    from vlp_jax.api.train import train
    from vlp_jax.core.errors import UserError
    from vlp_jax.train.workdir import flat_config, write_json

    asked = json.loads(json.dumps(flat_config(config), default=str))
    asked |= {f"then.{name}": str(run) for name, run in follow_ups.items()}
    file = folder / "measures.json"
    done = json.loads(file.read_text()) if file.is_file() else {}
    if done.get("asked") == asked:
        return done["measures"], False
    made = hooks.before()
    try:
        measures = {**made, **run_measures(config, folder, train(config, folder))}
    except UserError as error:
        text = str(error).replace("choose another folder or pass --force", "choose another --out")
        raise UserError(text) from error
    measures |= hooks.after()
    for name, run in follow_ups.items():
        after = run.load({}, str(folder))
        more = run_measures(after, folder / name, train(after, folder / name))
        measures |= {f"{name}.{key}": value for key, value in more.items()}
    write_json(file, {"asked": asked, "measures": measures})
    return measures, True


def run_measures(config: Any, folder: Path, outcome: Any) -> dict[str, float]:
    """{EVALUATOR.METRIC: number} of a finished run, and its loss, size, speed and FLOPs."""
    from vlp_jax.methods.base import make_method
    from vlp_jax.train.metrics import read_lines

    lines = read_lines(folder / "metrics.jsonl")
    speeds = [line["examples_per_s"] for line in lines if "examples_per_s" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    return {
        **{
            f"{name}.{metric}": float(value)
            for name, result in outcome.results.items()
            for metric, value in result.metrics.items()
        },
        "loss": float(losses[-1]),
        "parameters": float(outcome.parameters),
        "gflops": make_method(config.method).flops() / 1e9,
        "examples_per_s": statistics.median(speeds[1:] or speeds),  # the first is warming up
    }


def summary(
    study: Any, measured: Mapping[str, list[Mapping[str, float]]], names: list[str]
) -> dict[str, Any]:
    """{cells: {name: {paper, ours, spread, sampling, seeds}}, trends: {text: true, false or null}},
    plain values; ours: means over seeds, spread: standard deviations where there are several,
    sampling: standard errors that come of the test pictures, where they were measured.
    """
    from vlp_jax.train.workdir import versions

    count = len(measured[names[0]])
    by_seed = [study.values({name: measured[name][i] for name in names}) for i in range(count)]
    cells: dict[str, dict[str, Any]] = {}
    for name in names:
        seeds = {
            title: [values[name][title] for values in by_seed]
            for title in study.columns
            if all(title in values[name] for values in by_seed)
        }
        cells[name] = {
            "paper": dict(study.cells[name].paper),
            "ours": {title: statistics.mean(numbers) for title, numbers in seeds.items()},
            "spread": {t: statistics.stdev(n) for t, n in seeds.items() if len(n) > 1},
            "sampling": sampling(study.columns, measured[name]),
            "seeds": seeds,
            "measures": measured[name],
        }
    ours = {name: cell["ours"] for name, cell in cells.items()}
    trends = {trend.text: trend.check(ours) for trend in study.trends}
    return {"cells": cells, "trends": trends, "versions": versions()}


def sampling(columns: Mapping[str, Any], measured: list[Mapping[str, float]]) -> dict[str, float]:
    """{column: mean over seeds of the sampling error of its measure}, where there is one."""
    errors = {
        title: [one.get(f"{column.measure}_se") for one in measured]
        for title, column in columns.items()
        if not column.over
    }
    return {
        title: statistics.mean(values) * columns[title].scale
        for title, values in errors.items()
        if None not in values
    }

"""A study as data: the cells of a paper's table, how each is trained, what is measured, which
trends must hold.

A recipe, experiments/NAME/recipe.py, is Python and defines `get_study(full, data) -> Study`; it is
run by its path, as configs are. The file exists so that a study holds only numbers and predicates.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vlp_jax.api.config import load_config
from vlp_jax.core.errors import UserError, nearest

ROOT = Path(__file__).parents[2]
Values = Mapping[str, Mapping[str, float]]  # {cell: {column: mean over seeds}}
Hook = Callable[[Callable[[str], Path], Path, int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Labelled pictures of the small form: sources of the parts (no val: a fifth of train), the
    label's key, its classes, whether they have no colours."""

    train: str = "builtin:emoji/noto-train"
    val: str = "builtin:emoji/noto-val"
    test: str = "builtin:emoji/noto-test"
    label: str = "subcategory"
    num_classes: int = 99
    grey: bool = False

    def evaluator(self, **changes: Any) -> dict[str, Any]:
        """The config of a linear probe on this set, on at most 10,000 pictures of each part."""
        where = dict(train=self.train, val=self.val, path=self.test, label=self.label)
        how = dict(metric="mean_per_class", limit=10_000, iterations=300)
        return {"type": "probe", **how, **where, **changes}


def data_set(folder: str) -> DataSet:
    """Fashion-MNIST that `data prepare fashion_mnist` wrote to `folder`; the emoji for ''.

    Raises:
      UserError: the folder holds no such shards.
    """
    if not folder:
        return DataSet()
    paths = [f"{folder}/fashion_mnist-{part}-*.tar" for part in ("train", "test")]
    for path in paths:
        if not list(Path(folder).glob(Path(path).name)):
            raise UserError(f"--data={folder}: no {Path(path).name}; see data prepare --help")
    return DataSet(paths[0], "", paths[1], "label", 10, grey=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What `train` would be told.

    Attributes:
      config: FILE.py[:ARGS] of the repository.
      changes: {key: value}, as `--config.KEY=VALUE`; `{out}` is the study's folder, `{seed}` the
        seed.
      image: a tower's config that takes the place of `method.image`, where methods share a trunk.
    """

    config: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def load(
        self, more: Mapping[str, str], run: str = "", places: Mapping[str, str] | None = None
    ) -> ConfigDict:
        """The config, `more` overrides on top; every `{run}` in it stands for the workdir `run`,
        every key of `places` for its value.

        Raises:
          UserError: see api/config.py.
        """
        places = {"{run}": run, **(places or {})}
        spec = placed(self.config, places)
        spec = spec if Path(spec.partition(":")[0]).is_absolute() else f"{ROOT}/{spec}"
        changes = {key: placed(str(value), places) for key, value in self.changes.items()}
        config = load_config(spec, {**changes, **more})
        if self.image:
            with config.unlocked():
                config.image_size = self.image["image_size"]
                config.method.image = ConfigDict(self.image)
            for key in more:
                if key == "image_size" or key.startswith("method.image."):
                    raise UserError(f"--config.{key}: this study gives every cell the same trunk")
        return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Run):
    """A run of the table.

    Attributes:
      paper: {column: the paper's number}.
      evals: evaluators that replace those of the study with the same names.
      start: an earlier cell, from whose weights of the same seed this one starts; start_at: which
        of them, a path regex (its picture's tower), '' for all.
      aside: is no row of the paper's: the study's evaluators and follow-ups leave it out.
      then: changes of its follow-ups.
      needs: cells that must be there before it; before: f(f(cell) -> its workdir, the
        study's folder, seed) -> {measure: number}, writes what it reads once they are; after: the
        same, once it is trained.
    """

    start: str = ""
    start_at: str = "(batch_stats/)?image/.*"
    aside: bool = False
    then: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    before: Hook | None = None
    after: Hook | None = None
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    evals: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """A number of every cell.

    Attributes:
      measure: EVALUATOR.METRIC, FOLLOW-UP.EVALUATOR.METRIC, or one of `loss`, `gflops` (a picture's
        forward pass), `examples_per_s` (the median of the log) and `parameters`.
      scale: factor; 100 makes a percentage of a fraction.
      over: a cell by whose number all are divided, for speed-ups.
    """

    measure: str = "probe.mean_per_class"
    scale: float = 100.0
    over: str = ""


@dataclasses.dataclass(frozen=True)
class Trend:
    """A statement of the paper and its test on our numbers; a KeyError in it means that a cell was
    left out.
    """

    text: str
    holds: Callable[[Values], bool]

    def check(self, values: Values) -> bool | None:
        """True, False, or None where a cell that it needs has no number."""
        try:
            return bool(self.holds(values))
        except KeyError:
            return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A table to repeat.

    Attributes:
      title: with the paper's number for the table or figure.
      cells: name -> cell, in the order of the table; names that are all numbers are drawn as a
        line, names `A / B` as a matrix, others as bars.
      evals: evaluators of every cell, run at the end of its training.
      columns: name -> what is shown.
      trends: what must hold.
      follow_ups: runs on each finished cell, whose workdir is `{run}` in theirs.
      minutes: at most, of this form with one seed on two cores; 0: unknown.
      prepare: writes what the cells of these names read, before the first of them runs.
      draw: (title, {cell: its numbers}, path of the PNG) -> that path; None: the usual figure.
      notes: lines of the report.
    """

    title: str
    cells: Mapping[str, Cell]
    evals: Mapping[str, Mapping[str, Any]]
    columns: Mapping[str, Column]
    trends: tuple[Trend, ...]
    follow_ups: Mapping[str, Run] = dataclasses.field(default_factory=dict)
    minutes: int = 0
    prepare: Callable[[list[str]], None] | None = None
    draw: Callable[[str, Mapping[str, Mapping[str, Any]], str], str] | None = None
    notes: tuple[str, ...] = ()

    def config(
        self, name: str, seed: int, more: Mapping[str, str], out: str | Path = "runs"
    ) -> ConfigDict:
        """The config of a cell in the study's folder `out`: its own, with the study's evaluators at
        the end and `seed`."""
        cell = self.cells[name]
        places = {"{out}": str(out), "{seed}": str(seed)}
        config = cell.load({"seed": str(seed), "eval_every": "0", **more}, places=places)
        with config.unlocked():
            config.evals = ConfigDict({} if cell.aside else self.evals)
            config.evals.update(placed(cell.evals, places))
        return config

    def values(self, measures: Values) -> dict[str, dict[str, float]]:
        """{cell: {measure: number}} -> {cell: {column: number}}; what is missing is left out."""
        found: dict[str, dict[str, float]] = {name: {} for name in measures}
        for title, column in self.columns.items():
            base = measures.get(column.over, {}).get(column.measure) if column.over else 1.0
            for name, own in measures.items():
                if column.measure in own and base:
                    found[name][title] = own[column.measure] / base * column.scale
        return found


def placed(value: Any, places: Mapping[str, str]) -> Any:
    """Texts, and those in mappings, with what every mark stands for."""
    if isinstance(value, Mapping):
        return {key: placed(own, places) for key, own in value.items()}
    for mark, found in places.items() if isinstance(value, str) else ():
        value = value.replace(mark, found)
    return value


def studies() -> list[str]:
    """Names of the studies that lie in experiments/."""
    return sorted(path.parent.name for path in (ROOT / "experiments").glob("*/recipe.py"))


def load_study(name: str, full: bool, data: DataSet) -> Study:
    """The study of experiments/NAME, or of a folder that holds a recipe.py.

    Raises:
      UserError: no such study, or its recipe fails.
    """
    path = Path(name) / "recipe.py"
    if name in studies():
        path = ROOT / "experiments" / name / "recipe.py"
    if not path.is_file():
        raise UserError(f"repro {name}: no such study{nearest(name, studies(), limit=20)}")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # recipes say `from experiments import common`
    spec = importlib.util.spec_from_file_location(f"study_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_study(full, data)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error

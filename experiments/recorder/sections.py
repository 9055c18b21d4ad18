"""The sections of a record that are made in process: steps, devices, batches, evals.

The file exists to turn the cases of small.py into results by what adapter.py offers.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import adapter
import numpy as np
import small

ROOT = Path(__file__).resolve().parents[2]
STEPS, BATCHES = 5, 3


class Place(NamedTuple):
    """Where a record is written, and the record that it begins with (None: its own)."""

    out: Path
    start: Path | None = None

    @property
    def made(self) -> Path:
        """Input files, the same in every record that begins with this one."""
        return self.out / "made"

    @property
    def runs(self) -> Path:
        """Models that this tree made."""
        return self.out / "runs"

    def fill(self, text: str) -> str:
        """The text with {made} and {runs} as paths."""
        return text.replace("{made}", str(self.made)).replace("{runs}", str(self.runs))

    def told(self, value: Any) -> Any:
        """Plain values with the paths of this record and this tree as words."""
        text = json.dumps(value).replace(str(self.out), "{out}").replace(str(ROOT), "{root}")
        return json.loads(text)

    def open(self, case: small.Case) -> Any:
        """The config of a case."""
        keys = {key: self.fill(value) for key, value in case[1].items()}
        return adapter.open_config(self.fill(case[0]), keys)

    def earlier(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of SECTION/CASE in the record to begin with."""
        file = self.start and self.start / f"{name}.npz"
        return dict(np.load(file)) if file and file.is_file() else {}


class Record(NamedTuple):
    """A case's results: plain values by item, arrays by ITEM/LEAF, a program's text."""

    values: dict[str, Any]
    arrays: dict[str, np.ndarray] = {}
    program: str = ""


Cases = Iterator[tuple[str, Callable[[], Record]]]


def digest(array: np.ndarray) -> str:
    """dtype, shape and the first half of the SHA-256 of the bytes."""
    code = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]
    return f"{array.dtype}{list(array.shape)} {code}"


def digests(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """`digest` of each."""
    return {name: digest(array) for name, array in sorted(arrays.items())}


def under(item: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as leaves of an item."""
    return {f"{item}/{name}": array for name, array in arrays.items()}


def of_item(item: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inverse of `under`."""
    parts = [(name.partition(f"{item}/"), array) for name, array in arrays.items()]
    return {leaf: array for (before, _, leaf), array in parts if leaf and not before}


def normalised(text: str) -> str:
    """StableHLO without the names that Python gives; functions are numbered as they come."""
    text = re.sub(r'(, )?jax\.result_info = "[^"]*"', "", text)
    names: dict[str, str] = {}
    return re.sub(r"@[\w.$-]+", lambda m: names.setdefault(m[0], f"@f{len(names)}"), text)


def begin(place: Place, run: adapter.Run, name: str) -> tuple[Any, Record]:
    """The state to begin with; digests of the fresh one and arrays of the one that begins."""
    state = run.start()
    fresh = digests(run.arrays(state))
    state = run.put(state, of_item("start", place.earlier(name)))
    return state, Record({"fresh": fresh}, under("start", run.arrays(state)))


def step_record(place: Place, name: str, case: small.Case) -> Record:
    """Five steps: metrics of each, what they lead to, and the program."""
    run, old = adapter.Run(place.open(case)), place.earlier(name)
    state, (values, arrays, _) = begin(place, run, name)
    batches = [
        {key: old.get(f"batches/{number}/{key}", rows) for key, rows in batch.items()}
        for number, batch in enumerate(run.batches(STEPS))
    ]
    text, metrics = normalised(run.program(batches[0])[0]), []
    for number, batch in enumerate(batches):
        arrays |= under(f"batches/{number}", batch)
        state, found = run.step(state, batch)
        metrics.append(found)
    values |= {"metrics": {key: [found[key] for found in metrics] for key in metrics[0]}}
    values |= {"optimiser": adapter.optimiser(place.fill(case[0]))}
    values |= {"program": hashlib.sha256(text.encode()).hexdigest()}
    return Record(values, arrays | under("after", run.arrays(state)), text)


def steps(place: Place, section: str = "steps") -> Cases:
    """Every recipe and variants of some, on one device."""
    for name, case in getattr(small, section.upper()).items():
        yield name, partial(step_record, place, f"{section}/{name}", case)


def devices(place: Place) -> Cases:
    """Some recipes on eight simulated devices."""
    return steps(place, "devices")


def batch_record(place: Place, case: small.Case) -> Record:
    """Digests of the first batches for training and for evaluation, of one process and of two."""
    values = {}
    for process in ((0, 1), (0, 2), (1, 2)):
        run = adapter.Run(place.open(case), process)
        who = f"{process[0]} of {process[1]}"
        values[f"train {who}"] = [digests(batch) for batch in run.batches(BATCHES)]
        found = run.eval_batches(place.fill(case[1]["data.path"]), small.LIMIT)
        for kind, batches in found.items():
            values[f"evaluation {kind} {who}"] = [digests(batch) for batch in batches]
    return Record(values)


def batches(place: Place) -> Cases:
    """The data of every recipe, and data sets of every kind."""
    for name, case in small.BATCHES.items():
        yield name, partial(batch_record, place, case)


def eval_record(place: Place, name: str, case: small.Case) -> Record:
    """Metrics, tables and protocols of the evaluators, and the arrays that pictures show."""
    run = adapter.Run(place.open(case))
    state, (values, arrays, _) = begin(place, run, name)
    found, drawn = run.evaluate(state)
    return Record(values | found, arrays | under("drawn", drawn))


def evals(place: Place) -> Cases:
    """Evaluators on untrained models."""
    for name, case in small.EVALS.items():
        yield name, partial(eval_record, place, f"evals/{name}", case)

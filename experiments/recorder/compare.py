"""Compares two records: one line per item that differs, a summary per section.

python experiments/recorder/compare.py OLD NEW

An item is one line of a case: its metrics, the weights after five steps, a command. Numbers may
differ by a share of the largest of their array (BF16, PLAN, ELSE); everything else is
equal or not. Exit code 1 where anything differs. The file exists so that "nothing moved" is read
off a table.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

BF16, PLAN, ELSE = 2e-2, 2e-2, 1e-6  # relative; plans are equal where their program is
COLUMNS = ("items", "differ", "same program", "other program")
PROGRAM = "program"  # told, and no difference by itself
Leaves = dict[str, Any]


class Row(NamedTuple):
    """An item that differs."""

    case: str
    item: str
    count: str
    leaf: str
    old: str
    new: str
    by: str


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dicts and lists; a list of numbers is one array."""
    if isinstance(value, list) and value and all(type(x) in (int, float) for x in value):
        yield path, np.asarray(value, np.float64)
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from flat(inner, f"{path}/{key}" if path else str(key))
    else:
        yield path, value


def read(folder: Path) -> dict[str, dict[str, Leaves]]:
    """{SECTION/CASE: {item: {leaf: value}}} of a record."""
    record: dict[str, dict[str, Leaves]] = {}
    for file in sorted(folder.glob("*/*.json")):
        values = json.loads(file.read_text())
        items = {item: dict(flat(value)) for item, value in values.items()}
        for name, array in np.load(file.with_suffix(".npz")).items():
            item, _, leaf = name.partition("/")
            items.setdefault(item, {})[leaf] = array
        record[f"{file.parent.name}/{file.stem}"] = items
    return record


def distance(old: Any, new: Any) -> float:
    """0 where they are equal, the largest difference relative to the largest number, infinity where
    they cannot be compared.
    """
    if not all(isinstance(x, int | float | np.ndarray) and type(x) is not bool for x in (old, new)):
        return 0.0 if type(old) is type(new) and old == new else np.inf
    old, new = np.asarray(old), np.asarray(new)
    if old.shape != new.shape or old.dtype != new.dtype:
        return np.inf
    if np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
        return 0.0
    old, new = old.astype(np.float64), new.astype(np.float64)
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        return np.inf
    return float(np.abs(old - new).max() / max(np.abs(old).max(), np.abs(new).max()))


def shown(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, np.ndarray):
        few = " ".join(f"{x:.7g}" for x in value.ravel()[:3].astype(float))
        return f"{few} {'...' if value.size > 3 else ''}".strip()
    text = f"{value:.9g}" if isinstance(value, float) else str(value)
    text = re.sub(r"([0-9a-f]{8})[0-9a-f]{24,}", r"\1", text)  # digests
    return text if len(text) <= 200 else f"{text[:200]} ..."


def tolerance(case: str, same_program: bool) -> float:
    """How much numbers of a case may differ."""
    if "/plan_" in case:
        return 0.0 if same_program else PLAN
    return BF16 if case.endswith("bf16") else ELSE


def compare_item(case: str, item: str, old: Leaves, new: Leaves, within: float) -> Row | None:
    """The line of an item, or None where it is equal."""
    both = {leaf: distance(old[leaf], new[leaf]) for leaf in old.keys() & new.keys()}
    off = {leaf: by for leaf, by in both.items() if by > within}
    off |= dict.fromkeys(old.keys() ^ new.keys(), np.inf)
    if not off:
        return None
    worst = max(sorted(off), key=lambda leaf: (off[leaf], leaf in both))
    values = (shown(side.get(worst, "absent")) for side in (old, new))
    count = f"{len(off)} of {len(old.keys() | new.keys())}"
    by = f"{off[worst]:.1e}" if np.isfinite(off[worst]) else ""
    return Row(case, item, count, worst, *values, by)


def compare(old: dict, new: dict) -> tuple[list[Row], dict[str, list[str]], dict[str, Counter]]:
    """(items that differ, {remark: cases}, counts by section)."""
    rows, remarks, sums = [], defaultdict(list), defaultdict(Counter)
    for case in sorted(old.keys() | new.keys()):
        sides = [record.get(case, {}) for record in (old, new)]
        if not all(sides):
            remarks[f"in the {'old' if sides[0] else 'new'} record alone"].append(case)
            continue
        counts, programs = sums[case.split("/")[0]], [side.pop(PROGRAM, None) for side in sides]
        if programs[0]:
            counts["same program"] += programs[0] == programs[1]
        if programs[0] != programs[1]:
            counts["other program"] += 1
            remarks["another program"].append(case)
        within = tolerance(case, programs[0] == programs[1])
        for item in sorted(sides[0].keys() | sides[1].keys()):
            row = compare_item(case, item, *(side.get(item, {}) for side in sides), within)
            counts["items"] += 1
            counts["differ"] += row is not None
            rows += [row] if row else []
    return rows, remarks, sums


def main() -> int:
    """Prints the comparison."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("old", type=Path)
    p.add_argument("new", type=Path)
    args = p.parse_args()
    rows, remarks, sums = compare(read(args.old), read(args.new))
    console = Console(width=None if sys.stdout.isatty() else 200)
    if rows:
        table = Table("case", "item", "leaves", "worst", "old", "new", "by", title="differs")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    for remark, cases in remarks.items():
        console.print(f"{remark}: {', '.join(cases)}", markup=False)
    table = Table("section", *COLUMNS)
    for section, counts in sums.items():
        table.add_row(section, *(str(counts[column]) for column in COLUMNS))
    console.print(table)
    return 1 if rows or set(remarks) - {"another program"} or not sums else 0


if __name__ == "__main__":
    sys.exit(main())

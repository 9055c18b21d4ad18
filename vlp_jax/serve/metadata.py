"""What an index says of its rows: columns of Parquet files, found by row number and filtered by
conditions.

Row groups are read when they are asked for and kept up to a bound, so a large table costs no memory
to open. Needs pyarrow (extra `search`). The file exists so that search results can be looked at and
chosen by what is known about them.
"""

import operator
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.serve.vectors import check_ids, numbered

KEPT_BYTES = 1 << 30
OPEN_FILES = 128
GROUP = 2048  # rows of one group, what a look-up reads
_CONDITION = re.compile(r"\s*([^=!<>~]+?)\s*(!=|>=|<=|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_COMPARE = {
    **{"=": operator.eq, "!=": operator.ne, ">": operator.gt},
    **{"<": operator.lt, ">=": operator.ge, "<=": operator.le},
}


def load_pyarrow() -> Any:
    """pyarrow with its Parquet reader. Raises UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "metadata in Parquet needs pyarrow: pip install 'vlp_jax[search]'"
        ) from error
    return pyarrow


class Metadata:
    """Columns of the Parquet files of a folder, in the order of the numbers in their names; row i
    is row i of the vectors. A file may lack columns that another has.

    Raises:
      UserError: a file that is no Parquet.
    """

    def __init__(self, folder: str):
        self._arrow = load_pyarrow()
        self._groups: list[tuple[str, int, list[str]]] = []  # file, group in it, its columns
        self.columns: list[str] = []
        self.file_rows: list[int] = []
        sizes = []
        for file in numbered(folder, ".parquet"):
            try:
                found = self._arrow.parquet.read_metadata(file)
            except (OSError, self._arrow.ArrowException) as error:
                raise UserError(f"{file}: is no Parquet file or damaged") from error
            names = found.schema.to_arrow_schema().names
            self._groups += [(file, group, names) for group in range(found.num_row_groups)]
            sizes += [found.row_group(group).num_rows for group in range(found.num_row_groups)]
            self.columns += [name for name in names if name not in self.columns]
            self.file_rows.append(found.num_rows)
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._opened: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, ids: Iterable[int], columns: Sequence[str] | None = None) -> list[dict]:
        """One {column: value} per id, in their order; columns that a row's file lacks are absent.

        Raises:
          UserError: an id that is no row.
        """
        ids, found = check_ids(np.asarray(list(ids), np.int64), len(self)), []
        for row in ids.tolist():
            at = int(np.searchsorted(self._ends, row, side="right"))
            group = self._group(at, columns)
            start = int(self._ends[at - 1]) if at else 0
            found.append({name: cells[row - start].as_py() for name, cells in group.items()})
        return found

    def warm(self, columns: Sequence[str]) -> None:
        """Reads columns of as many rows as half of what is kept holds."""
        for at in range(len(self._groups)):
            if self._bytes > KEPT_BYTES // 2:
                break
            self._group(at, columns)

    def _group(self, at: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """{name: cells} of one row group, of the columns that it has; from memory where they were
        read before."""
        with self._lock:
            path, number, has = self._groups[at]
            kept = self._kept.setdefault(at, {})
            names = [name for name in has if columns is None or name in columns]
            missing = [name for name in names if name not in kept]
            if missing:
                file = self._file(path)
                table = file.read_row_group(number, columns=missing, use_threads=False)
                kept |= {name: table.column(name).combine_chunks() for name in missing}
                self._bytes += table.nbytes
            self._kept.move_to_end(at)
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= sum(cells.nbytes for cells in old.values())
            return {name: kept[name] for name in names}

    def _file(self, path: str) -> Any:
        """An open Parquet file, of which the last few are."""
        if path not in self._opened:
            self._opened[path] = self._arrow.parquet.ParquetFile(path, memory_map=True)
            if len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(path)
        return self._opened[path]

    def where(self, conditions: Sequence[str]) -> np.ndarray:
        """bool[n]: rows that fulfil all conditions, `COLUMN=VALUE` with one of = != < <= > >= or ~
        (contains, in any case). Of a list one element must; what is missing fulfils none but !=.

        Worked example: ("style=noto", "width>=64", "caption~cat").

        Raises:
          UserError: no such column, no condition, or a number is compared with a text.
        """
        mask = np.ones(len(self), bool)
        for condition in conditions:
            column, compare, value = self._condition(condition)
            start = 0
            for at, stop in enumerate(self._ends.tolist()):
                cells = self._group(at, (column,)).get(column)
                if cells is None:  # the file lacks the column
                    mask[start:stop] &= compare == "!="
                else:
                    mask[start:stop] &= _rows(cells, compare, value, condition)
                start = stop
        return mask

    def _condition(self, text: str) -> tuple[str, str, str]:
        found = _CONDITION.fullmatch(text)
        if not found:
            raise UserError(f"where: {text!r} is no condition like style=noto or width>=64")
        if found[1] not in self.columns:
            raise UserError(f"where: no column {found[1]!r}{nearest(found[1], self.columns)}")
        return found[1], found[2], found[3]


def _rows(cells: Any, compare: str, value: str, condition: str) -> np.ndarray:
    """bool[n]: which cells fulfil a condition."""
    fulfilled = _predicate(compare, value, condition)
    if not _plain(cells):
        return np.array([fulfilled(cell) for cell in cells.to_pylist()], bool)
    distinct = cells.dictionary_encode()
    answers = np.array([*map(fulfilled, distinct.dictionary.to_pylist()), fulfilled(None)], bool)
    return answers[distinct.indices.fill_null(len(answers) - 1).to_numpy(zero_copy_only=False)]


def _plain(cells: Any) -> bool:
    """Whether the cells are numbers, texts or switches, of which each distinct one is looked at
    once."""
    return not str(cells.type).startswith(("list", "large_list", "struct", "map", "null", "dict"))


def _predicate(compare: str, value: str, condition: str) -> Callable[[Any], bool]:
    try:
        number = float(value)
    except ValueError:
        number = None

    def fulfilled(cell: Any) -> bool:
        if isinstance(cell, list):
            return all(map(fulfilled, cell)) if compare == "!=" else any(map(fulfilled, cell))
        if cell is None:
            return compare == "!="
        if compare == "~":
            return value.lower() in str(cell).lower()
        if not isinstance(cell, int | float):
            return _COMPARE[compare](str(cell), value)
        if isinstance(cell, bool):
            return _COMPARE[compare](str(cell).lower(), value.lower())
        if number is None:
            raise UserError(f"where: {condition!r}: the column holds numbers, {value!r} is none")
        return _COMPARE[compare](cell, number)

    return fulfilled

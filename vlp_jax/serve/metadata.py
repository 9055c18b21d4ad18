"""What an index says of its rows: columns of Parquet files, found by row number and filtered by
conditions.

Row groups are read when they are asked for and kept up to a bound, so a large table costs no memory
to open. Needs pyarrow (extra `search`). The file exists so that search results can be looked at and
chosen by what is known about them.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.serve.cells import as_python
from vlp_jax.serve.conditions import Condition, kind_of, parse, rows_of
from vlp_jax.serve.vectors import check_ids, numbered

KEPT_BYTES = 1 << 30
OPEN_FILES = 128
GROUP = 2048  # rows of one group, what a look-up reads
_ODD = (TypeError, ValueError, AttributeError)


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
        self._kinds: dict[str, set[str]] = {}
        self.files, self.file_rows = numbered(folder, ".parquet"), []
        sizes = []
        for file in self.files:
            try:
                found = self._arrow.parquet.read_metadata(file)
            except (OSError, self._arrow.ArrowException) as error:
                raise UserError(f"{file}: is no Parquet file or damaged") from error
            schema = found.schema.to_arrow_schema()
            self._groups += [(file, group, schema.names) for group in range(found.num_row_groups)]
            sizes += [found.row_group(group).num_rows for group in range(found.num_row_groups)]
            for field in schema:
                kind = kind_of(self._arrow, field.type)
                self._kinds.setdefault(field.name, set()).update({kind} if kind else ())
            self.file_rows.append(found.num_rows)
        self.columns = list(self._kinds)
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._opened: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def _kind(self, column: str) -> str:
        """What a column holds in all files; where they differ, texts."""
        kinds = self._kinds[column]
        return next(iter(kinds)) if len(kinds) == 1 else "text"

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
            cells = {name: cells[row - start] for name, cells in group.items()}
            found.append({name: as_python(self._arrow, cell) for name, cell in cells.items()})
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
                table = self._read(path, number, missing)
                kept |= {name: table.column(name).combine_chunks() for name in missing}
                self._bytes += table.nbytes
            self._kept.move_to_end(at)
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= sum(cells.nbytes for cells in old.values())
            return {name: kept[name] for name in names}

    def _read(self, path: str, number: int, columns: list[str]) -> Any:
        """Columns of a row group as a table. Raises UserError where its pages are damaged."""
        try:
            table = self._file(path).read_row_group(number, columns=columns, use_threads=False)
            table.validate(full=True)
        except (OSError, self._arrow.ArrowException) as error:
            raise UserError(f"{path}: row group {number} is damaged; make it again") from error
        return table

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
        Numbers are compared exactly, durations in seconds; of a time given as a day all of the day
        counts. Without a zone it is in the column's, in UTC where that has none.

        Worked example: ("style=noto", "width>=64", "caption~cat", "taken>2020-01-31").

        Raises:
          UserError: no such column, no condition, or a value that the column cannot hold.
        """
        mask = np.ones(len(self), bool)
        for text in [conditions] if isinstance(conditions, str) else conditions:
            asked, start = parse(text, self.columns), 0
            kind = self._kind(asked.column)
            for at, stop in enumerate(self._ends.tolist()):
                cells = self._group(at, (asked.column,)).get(asked.column)
                if cells is None:  # the file lacks the column
                    mask[start:stop] &= asked.compare == "!="
                else:
                    mask[start:stop] &= self._rows_of(cells, asked, kind)
                start = stop
        return mask

    def _rows_of(self, cells: Any, asked: Condition, kind: str) -> np.ndarray:
        """What no column can be asked is the asker's mistake, whatever a library calls it."""
        try:
            return rows_of(self._arrow, cells, asked, kind)
        except (self._arrow.ArrowException, ArithmeticError, LookupError, *_ODD) as error:
            said = f"cannot be compared with the column ({' '.join(str(error).split())[:200]})"
            raise UserError(f"where: {asked.text!r}: {said}") from error

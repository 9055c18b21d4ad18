"""Rows of delimited text: RFC 4180's CSV with comma, tab, semicolon or bar between the cells.

The file exists because a quote that is never closed swallows the rows behind it, and the csv module
hands them over as one caption without a word.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import Damage
from vlp_jax.data.walk import IMAGE_SUFFIXES, suffix_of

DELIMITERS = ",\t;|"
_MAX_CELL = 2**20  # characters; where a quote that is never closed is noticed at the latest

Row = tuple[int, dict[str, str]]  # line from 1, cells by column


class Delimited:
    """Rows of a table in text form, and what of it is damage, by line.

    A row whose quotes do not close, or swallow the next row, is lost ('bad_quotes'), and reading
    goes on in the next line, so that no other row is lost with it; so is one with more or fewer
    cells than the header ('bad_row').

    Args:
      lines: with their ends.
      pictures: names of columns that hold paths, relative to the file's folder.
      others: further names that are looked for; the delimiter is the one that finds most.

    Raises:
      UserError: a header that is none.
    """

    def __init__(self, path: str, lines: list[str], pictures: Sequence[str], others: Sequence[str]):
        csv.field_size_limit(_MAX_CELL)
        self.path, self.lines, self.pictures = path, lines, set(pictures) - {""}
        self.columns: list[str] = []
        self.damage: list[Damage] = []
        head = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
        header = lines[head] if lines[head:] else ""
        usual, names = (
            "\t" if path.lower().endswith(".tsv") else ",",
            self.pictures | set(others) - {""},
        )

        def found(delimiter: str) -> tuple[int, bool]:
            cells = {cell.lower() for cell in _plain(header, delimiter)}
            return len(cells & names), delimiter == usual

        self.delimiter = max(DELIMITERS, key=found)
        self.rows = list(self._read(head))

    def _read(self, at: int) -> Iterator[Row]:
        while at < len(self.lines):
            for start, cells, end in self._cells(at):
                at = end
                if cells is None or self._swallows(start, end):
                    self._lose("bad_quotes", start + 1, "a quote that is not closed or not doubled")
                    at = start + 1
                    break
                if any(map(str.strip, cells)):
                    yield from self._named(cells, start + 1)

    def _cells(self, at: int) -> Iterator[tuple[int, list[str] | None, int]]:
        """Rows from line `at` on (from 0): its line, its cells (None for the first whose quotes are
        wrong, the last that comes) and the line after it."""
        rest = map(self.lines.__getitem__, range(at, len(self.lines)))
        reader = csv.reader(rest, delimiter=self.delimiter, strict=True, skipinitialspace=True)
        start = at
        try:
            for cells in reader:
                yield start, cells, at + reader.line_num
                start = at + reader.line_num
        except csv.Error:
            yield start, None, start

    def _swallows(self, start: int, end: int) -> bool:
        """Whether lines [start, end) of one row hold rows of their own: its first two, or a later
        one, which counts up to its own quote where that closes the row's."""
        first, *later = self.lines[start:end]
        closed = (line if line.count('"') % 2 == 0 else line.partition('"')[0] for line in later)
        both = bool(later) and self._alone(first) and self._alone(later[0])
        return both or any(map(self._alone, closed))

    def _alone(self, line: str) -> bool:
        """Whether a line is a row of its own, by the number of cells and a picture's name in it: no
        caption of several lines has one, but what a quote swallows does."""
        cells, folder = _plain(line, self.delimiter), os.path.dirname(os.path.abspath(self.path))
        named = [
            suffix_of(cell) in IMAGE_SUFFIXES or os.path.isfile(os.path.join(folder, cell))
            for cell, column in zip(cells, self.columns, strict=False)
            if column.lower() in self.pictures and cell
        ]
        return len(cells) == len(self.columns) and any(named)

    def _named(self, cells: list[str], line: int) -> Iterator[Row]:
        if not self.columns:
            self.columns = [cell.strip() for cell in cells]
            twice = [name for name, n in Counter(self.columns).items() if n > 1 and name]
            if twice:
                raise UserError(f"{self.path!r} has two columns {twice[0]!r}")
        elif len(cells) != len(self.columns):
            self._lose("bad_row", line, f"{len(cells)} cells for {len(self.columns)} columns")
        else:
            yield line, dict(zip(self.columns, cells, strict=True))

    def _lose(self, reason: str, line: int, what: str) -> None:
        if not self.columns:
            raise UserError(f"{self.path!r}: line {line}: {what}")
        self.damage.append(Damage(reason, f"{self.path}: line {line} ({what})"))


def _plain(line: str, delimiter: str) -> list[str]:
    """Cells of a line on its own, whatever its quotes mean."""
    return [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(delimiter)]

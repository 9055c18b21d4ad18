"""Vectors in a folder of .npy files, memory-mapped, as one list of rows.

The layout is clip-retrieval's (github.com/rom1504/clip-retrieval): `img_emb/img_emb_0003.npy`, in
the order of the numbers in the names. The file exists so that an index is as large as the disk and
costs no memory to open.
"""

import os
import re
from collections.abc import Sequence

import numpy as np

from vlp_jax.core.errors import UserError

DTYPES = ("float16", "float32")
_NUMBER = re.compile(r"([0-9]+)")


def numbered(folder: str, suffix: str) -> list[str]:
    """Paths of the files of a suffix in the order of the numbers in their names; none where there
    is no such folder.

    >>> sorted(["a_10.npy", "a_9.npy"], key=place)
    ['a_9.npy', 'a_10.npy']
    """
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [name for name in names if name.endswith(suffix) and not name.startswith(".")]
    return [os.path.join(folder, name) for name in sorted(found, key=place)]


def place(name: str) -> tuple[list[str | int], str]:
    """What orders the parts of a folder: the pieces of a name, its numbers as such, and itself."""
    pieces: list[str | int] = list(_NUMBER.split(name))  # text, digits, text, digits, ..., text
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, name


def part_numbers(files: Sequence[str]) -> list[tuple[int, ...]] | None:
    """The numbers of parts, what differs among those in their names; None where that says nothing.

    >>> part_numbers(["clip2_07.npy", "clip2_08.npy"])
    [(7,), (8,)]
    """
    found = [[int(n) for n in _NUMBER.findall(os.path.basename(file))] for file in files]
    if len({len(numbers) for numbers in found}) != 1:
        return None
    columns = [column for column in zip(*found, strict=True) if len(set(column)) > 1]
    return list(zip(*columns, strict=True)) or None


class Vectors:
    """Rows of several parts, float16 or float32[n, E] each, none of which is loaded."""

    def __init__(self, parts: Sequence[np.ndarray], files: Sequence[str] = ()):
        self.parts, self.files = list(parts), list(files)
        self.ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)
        self.rows = int(self.ends[-1]) if self.parts else 0
        self.width = self.parts[0].shape[1] if self.parts else 0

    @classmethod
    def open(cls, folder: str) -> "Vectors":
        """The parts of a folder.

        Raises:
          UserError: a file that is no float16 or float32[n, E], is cut short, or has another E.
        """
        files = numbered(folder, ".npy")
        parts = [_mapped(file) for file in files]
        for file, part in zip(files, parts, strict=True):
            if part.shape[1] != parts[0].shape[1]:
                widths = f"{part.shape[1]} numbers, those of {files[0]} {parts[0].shape[1]}"
                raise UserError(f"{file}: its vectors have {widths}")
        return cls(parts, files)

    def take(self, ids: np.ndarray) -> np.ndarray:
        """float32[m, E]: rows by number, of unit norm again after their rounding; zeros stay.

        Raises:
          UserError: an id that is no row.
        """
        ids = check_ids(ids, self.rows)
        found = np.zeros((len(ids), self.width), np.float32)
        where = np.searchsorted(self.ends, ids, side="right")
        for at in np.unique(where):
            mine = where == at
            part = self.parts[at]
            found[mine] = part[ids[mine] - (self.ends[at] - len(part))]
        return unit_rows(found)


def check_ids(ids: np.ndarray, rows: int) -> np.ndarray:
    """int64[m]. Raises UserError for what is no row of `rows`."""
    ids = np.asarray(ids, np.int64).reshape(-1)
    wrong = ids[(ids < 0) | (ids >= rows)]
    if wrong.size:
        raise UserError(f"no row {wrong[0]} in an index of {rows} rows")
    return ids


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float32[m, E] divided by their norms; zeros stay."""
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _mapped(file: str) -> np.ndarray:
    try:
        part = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: is no array or cut short") from error
    if part.ndim != 2 or part.dtype.name not in DTYPES or not part.dtype.isnative:
        what = f"{part.dtype}{list(part.shape)}"
        raise UserError(f"{file}: {what}; vectors are float16 or float32[rows, width]")
    return part

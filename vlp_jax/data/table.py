"""Tables with a picture path per row, and captions, labels or questions: CSV, TSV, JSON lines and
the JSON files of caption and question sets.

The file exists because captions often come as one table beside a folder of pictures (open_clip's
CSV format, Karpathy-style lists, exports of annotation tools).
"""

import functools
import io
import json
import os
import re
from collections.abc import Sequence

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.annotations import placed, read_annotations, split_path
from vlp_jax.data.caption_list import LOOKED_AT, is_caption_list, place_of, read_caption_list
from vlp_jax.data.contrasts import with_pairs
from vlp_jax.data.damage import Damage
from vlp_jax.data.delimited import Delimited, Row
from vlp_jax.data.encoding import read_text
from vlp_jax.data.folder import read_bounded
from vlp_jax.data.pairs import is_pair, pair_of
from vlp_jax.data.source import MISSING, Example, Members, captions_of, digest, stamp_of
from vlp_jax.data.walk import IMAGE_SUFFIXES, suffix_of

IMAGE_COLUMNS = (
    *("image", "filepath", "image_path", "file_name", "filename", "path", "file", "img"),
    *("img_path", "image_file", "image_name"),
)
CAPTION_COLUMNS = (
    *("caption", "captions", "text", "title", "description", "sentence"),
    *("sentences", "comment", "alt_text"),
)
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?")  # not 007, which is a name


def _lines(path: str) -> list[str]:
    """Lines with their ends, of any system."""
    return list(io.StringIO(read_text(path, newline=""), newline=""))


def _read_jsonl(path: str, lines: list[str]) -> tuple[list[Row], list[Damage]]:
    rows, damage = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not rows and not damage and line.lstrip().startswith("["):
            raise UserError(f"{path!r}: line {number}: a JSON array; .jsonl is one object a line")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            damage.append(Damage("bad_json", f"{path}: line {number}"))
    return with_pairs(rows, path), damage


def _count(rows: Sequence[Row], column: str) -> None:
    """Makes a CSV column of whole numbers ints, and None where a cell is empty or missing."""
    cells = [row[column].strip() for _, row in rows]
    found = {cell: _WHOLE.fullmatch(cell) for cell in set(cells) - MISSING}
    if found and all(found.values()):
        for (_, row), cell in zip(rows, cells, strict=True):
            row[column] = int(found[cell][1]) if cell in found else None


def _column(columns: list[str], asked: str, known: tuple[str, ...]) -> str:
    """The column that was asked for, else the first that is known; '' without one."""
    lowered = {str(column).strip().lower(): column for column in columns}
    return asked or next((lowered[name] for name in known if name in lowered), "")


class TableSource:
    """Rows of a table; picture paths are relative to the table's folder unless absolute.

    The picture and caption columns are named by `image_key` and `caption_key` or found among the
    usual names; without the latter the pictures have no captions. A JSON caption cell may be a
    list; a list of captions (data/caption_list.py) is one sample a picture, a released JSON file
    (data/annotations.py) one a picture or a question. Every column stays in `meta`, those of a CSV
    that hold whole numbers ("3", "3.0") as ints. Rows that are none or name no picture are damage,
    by line. Raises UserError for a file without rows or a picture column, and, naming the line, for
    one that is no certain text.
    """

    def __init__(self, path: str, image_key: str = "", caption_key: str = ""):
        released = split_path(path)[0]
        if not os.path.isfile(released or path):
            raise UserError(f"no such file: {(released or path)!r}")
        self.path, self._folder = path, os.path.dirname(os.path.abspath(path))
        lines, is_json = [] if released else _lines(path), path.lower().endswith(".jsonl")
        listed = is_caption_list(path, lines[0] if lines else "")
        if released:
            rows, self.damage, self._folder = read_annotations(path)
        elif listed:
            rows, self.damage = read_caption_list(path, lines)
            names = (row["image"] for _, row in rows[:LOOKED_AT])
            self._folder = place_of(self._folder, names) or self._folder
        elif is_json:
            rows, self.damage = _read_jsonl(path, lines)
            named = image_key or (rows and _column(list(rows[0][1]), "", IMAGE_COLUMNS))
            if not named and rows and all(is_pair(row) for _, row in rows):
                rows = [(number, pair_of(row)) for number, row in rows]
                self._folder = placed(self._folder, [row for _, row in rows])
        else:
            pictures, others = (image_key, *IMAGE_COLUMNS), (caption_key, *CAPTION_COLUMNS)
            table = Delimited(path, lines, pictures, others)
            rows, self.damage = table.rows, table.damage
        if not rows:
            first = "".join(f"; {d.where}: {d.reason}" for d in self.damage[:1])
            raise UserError(f"no rows in {path!r}{first}")
        columns = list(dict.fromkeys(key for _, row in rows for key in row))
        self._find(columns, image_key, caption_key)
        if not (is_json or listed or released):
            for column in set(columns) - {self._image, self._caption}:
                _count(rows, column)
        self._keep(rows)

    def _find(self, columns: list[str], image_key: str, caption_key: str) -> None:
        for asked in (image_key, caption_key):
            if asked and asked not in columns:
                raise UserError(f"{self.path!r} has no column {asked!r}" + nearest(asked, columns))
        self._image = _column(columns, image_key, IMAGE_COLUMNS)
        self._caption = _column(columns, caption_key, CAPTION_COLUMNS)
        has = f"it has: {', '.join(columns[:12])}"
        if not self._image:
            names = ", ".join(IMAGE_COLUMNS)
            raise UserError(f"{self.path!r} has no picture column (one of {names}); {has}")
        if not self._caption:
            names = ", ".join(CAPTION_COLUMNS)
            self.uncaptioned = f"no caption column (one of {names}, or data.caption=COLUMN); {has}"

    def _keep(self, rows: Sequence[Row]) -> None:
        named = [isinstance(r.get(self._image), str) and bool(r[self._image]) for _, r in rows]
        self.damage += [
            Damage("no_image", f"{self.path}: line {line}")
            for (line, _), good in zip(rows, named, strict=True)
            if not good
        ]
        self._rows = [row for (_, row), good in zip(rows, named, strict=True) if good]
        if not self._rows:
            raise UserError(f"{self.path!r}: column {self._image!r} names no picture")
        self.fingerprint = digest(
            json.dumps(row, sort_keys=True, default=str) for row in self._rows
        )

    @property
    def pictures_stamp(self) -> str:
        """Changes with the sizes and times of change of the pictures; see
        `source.pictures_stamp`."""
        paths = (os.path.join(self._folder, row[self._image]) for row in self._rows)
        return digest(map(stamp_of, paths))

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, i: int) -> str:
        return f"{self.path}: {self._rows[i][self._image]!r}"

    def metadata(self, i: int) -> Example:
        """Key (the picture's path without suffix), captions, all columns and the picture's path of
        row i; members: the files that columns name."""
        row = self._rows[i]
        captions = captions_of(None, {"captions": row.get(self._caption)})
        members = Members(*(functools.partial(each, i) for each in (self._file, self._files)))
        name = os.path.normpath(row[self._image])
        found = {"key": os.path.splitext(name)[0], "path": os.path.join(self._folder, name)}
        return {**found, "text": captions, "meta": row, "members": members}

    def _files(self, i: int) -> list[str]:
        """The columns but for the picture's that name a file which is there."""
        row, folder = self._rows[i], self._folder
        named = [c for c, v in row.items() if isinstance(v, str) and suffix_of(v) in IMAGE_SUFFIXES]
        there = [c for c in named if os.path.isfile(os.path.join(folder, row[c]))]
        return [column for column in there if column != self._image]

    def _file(self, i: int, column: str) -> bytes | None:
        """The file that a column names, None where it names none."""
        name = self._rows[i].get(column)
        if not isinstance(name, str) or name in MISSING:
            return None
        return read_bounded(os.path.join(self._folder, name), self.where(i))

    def __getitem__(self, i: int) -> Example:
        path = os.path.join(self._folder, self._rows[i][self._image])
        return {**self.metadata(i), "image": read_bounded(path, self.where(i))}

"""CSV, TSV and JSON-lines tables with a picture path and captions per row.

The file exists because captions often come as one table beside a folder of pictures (open_clip's
CSV format, Karpathy-style lists, exports of annotation tools).
"""

import csv
import json
import os
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.damage import Damage
from vlp_jax.data.folder import read_bounded
from vlp_jax.data.source import Example, captions_of, digest

IMAGE_COLUMNS = ("image", "filepath", "image_path", "file_name", "filename", "path", "file", "img")
CAPTION_COLUMNS = ("caption", "captions", "text", "title", "description", "sentence")
_MAX_FIELD = 2**24


def _read_csv(path: str, delimiter: str) -> tuple[list[dict[str, Any]], list[Damage]]:
    csv.field_size_limit(_MAX_FIELD)
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path!r}: line {reader.line_num}: {error}") from error
    short = [i for i, row in enumerate(rows) if None in row or None in row.values()]
    damage = [Damage("bad_row", f"{path}: row {i}") for i in short]
    return [row for i, row in enumerate(rows) if i not in set(short)], damage


def _read_jsonl(path: str) -> tuple[list[dict[str, Any]], list[Damage]]:
    rows, damage = [], []
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                damage.append(Damage("bad_json", f"{path}: line {number}"))
    return rows, damage


def _column(path: str, columns: list[str], asked: str, known: tuple[str, ...], what: str) -> str:
    if asked:
        if asked not in columns:
            raise UserError(f"{path!r} has no column {asked!r}" + nearest(asked, columns))
        return asked
    lowered = {str(column).strip().lower(): column for column in columns}
    for name in known:
        if name in lowered:
            return lowered[name]
    raise UserError(
        f"{path!r} has no {what} column (one of {', '.join(known)}); "
        f"it has: {', '.join(columns[:12])}"
    )


class TableSource:
    """Rows of a table; picture paths are relative to the table's folder unless absolute.

    The picture and caption columns are named by `image_key` and `caption_key` or found among the
    usual names. A JSON caption cell may be a list; every column stays in `meta`. Rows that name no
    picture are damage.
    """

    def __init__(self, path: str, image_key: str = "", caption_key: str = ""):
        if not os.path.isfile(path):
            raise UserError(f"no such file: {path!r}")
        self.path, self._folder = path, os.path.dirname(os.path.abspath(path))
        if path.endswith(".jsonl"):
            rows, self.damage = _read_jsonl(path)
        else:
            rows, self.damage = _read_csv(path, "\t" if path.endswith(".tsv") else ",")
        if not rows:
            raise UserError(f"no rows in {path!r}")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        self._image = _column(path, columns, image_key, IMAGE_COLUMNS, "picture")
        self._caption = _column(path, columns, caption_key, CAPTION_COLUMNS, "caption")
        named = [isinstance(row.get(self._image), str) and bool(row[self._image]) for row in rows]
        self.damage += [
            Damage("no_image", f"{path}: row {i}") for i, good in enumerate(named) if not good
        ]
        self._rows = [row for row, good in zip(rows, named, strict=True) if good]
        if not self._rows:
            raise UserError(f"{path!r}: column {self._image!r} names no picture")
        self.fingerprint = digest(
            json.dumps(row, sort_keys=True, default=str) for row in self._rows
        )

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, i: int) -> str:
        return f"{self.path}: {self._rows[i][self._image]!r}"

    def metadata(self, i: int) -> Example:
        """Key (the picture's path without suffix), captions and all columns of row i."""
        row = self._rows[i]
        value = row.get(self._caption)
        captions = captions_of(None, {"captions": value if isinstance(value, list | str) else []})
        return {"key": os.path.splitext(row[self._image])[0], "text": captions, "meta": row}

    def __getitem__(self, i: int) -> Example:
        path = os.path.join(self._folder, self._rows[i][self._image])
        return {**self.metadata(i), "image": read_bounded(path, self.where(i))}

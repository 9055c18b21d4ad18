"""A folder of arrays on disk: orbax, atomic, with a digest of every file in a table beside it.

Reading loads the arrays and checks the digests at the same time, so damage is found before the
first step and the file is named. The file exists as the one thin layer over orbax's v1 interface,
for steps (checkpoint.py) and frozen weights (frozen.py) alike.
"""

import concurrent.futures
import dataclasses
import json
import os
import zlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.pytree import flatten

_CHUNK = 1 << 22


def context() -> ocp.Context:
    """How arrays are written and read."""
    found = ocp.Context()
    found.array.saving.use_compression = (
        False  # float32 weights hardly compress; zstd would halve the speed
    )
    return found


def file_digest(path: Path) -> dict[str, int]:
    """Returns {bytes, crc32} of a file."""
    value, size = 0, 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            value, size = zlib.crc32(chunk, value), size + len(chunk)
    return {"bytes": size, "crc32": value}


def _crc(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def one_line(error: BaseException) -> str:
    """The first line of an error's text."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


@dataclasses.dataclass(frozen=True)
class Saved:
    """Arrays in a folder.

    Attributes:
      folder: where they are.
      table: JSON file of the digests; its presence says that the folder is whole.
      hint: what to do about damage, the end of an error's line.
    """

    folder: Path
    table: Path
    hint: str

    def write(self, tree: Any) -> Any:
        """Starts an asynchronous save; returns what is waited for with `.result()`."""
        with context():
            return ocp.save_async(self.folder, tree, overwrite=True)

    def seal(self, **more: int) -> int:
        """Writes the table, and what else it shall say; returns its digest."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        digests = {str(path.relative_to(self.folder)): file_digest(path) for path in files}
        table = {"files": digests, "crc32": _crc([digests, more] if more else digests), **more}
        partial = self.table.with_suffix(".tmp")
        with open(partial, "w") as file:
            json.dump(table, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.table)
        return table["crc32"]

    def read(self) -> dict[str, Any]:
        """The table: files, crc32 and what else `seal` was given.

        Raises:
          RunError: it is damaged.
        """
        try:
            table = json.loads(self.table.read_text())
            more = {name: table[name] for name in table.keys() - {"files", "crc32"}}
            files = table["files"]
            whole = table["crc32"] == _crc([files, more] if more else files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise RunError(f"{self.table}: damaged; {self.hint}")
        return table

    def check(self, name: str, digest: dict[str, int]) -> None:
        """Raises RunError where a file of the table is missing or changed."""
        path = self.folder / name
        if not path.is_file():
            raise RunError(f"{path}: file of a complete checkpoint is missing; {self.hint}")
        found = file_digest(path)
        if found != digest:
            raise RunError(
                f"{path}: damaged, {found} does not match {digest} at save time; {self.hint}"
            )

    def shapes(self) -> Any:
        """The tree of what was saved; leaves have shape and dtype.

        Raises:
          RunError: a damaged file, named.
        """
        try:
            with context():
                found = ocp.metadata(self.folder).metadata
            if found is None:  # damage that orbax passes over
                raise ValueError("no metadata")
            return found
        except Exception as error:
            for name, digest in self.read()["files"].items():
                self.check(name, digest)
            raise self._unreadable(error) from error

    def load(self, abstract: Any, compare: bool = True) -> Any:
        """Fills a tree of ShapeDtypeStructs with shardings.

        Args:
          abstract: the tree.
          compare: refuse arrays whose tree differs from it.

        Raises:
          UserError: another tree (one message lists every difference).
          RunError: a damaged file, named.
        """
        files = self.read()["files"].items()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            checks = [pool.submit(self.check, *item) for item in files]
            problem: Exception | None = None
            try:
                tree = self._load(abstract, compare)
            except Exception as error:
                problem = error
            for check in checks:
                check.result()  # a damaged file is the better explanation, so it is raised first
        if problem is not None:
            raise problem
        return tree

    def _load(self, abstract: Any, compare: bool) -> Any:
        with context():
            if compare:
                self._compare(abstract)
            try:
                return ocp.load(self.folder, abstract)
            except Exception as error:
                raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> RunError:
        return RunError(f"{self.folder}: cannot be restored: {one_line(error)}")

    def _compare(self, abstract: Any) -> None:
        saved = flatten(ocp.metadata(self.folder).metadata)
        wanted: dict[str, jax.ShapeDtypeStruct] = flatten(abstract)
        lines = [f"missing {path}" for path in wanted if path not in saved]
        lines += [f"unexpected {path}" for path in saved if path not in wanted]
        for path in wanted.keys() & saved.keys():
            have, want = saved[path], wanted[path]
            if tuple(have.shape) != tuple(want.shape) or have.dtype != want.dtype:
                found = f"{have.dtype}{list(have.shape)}"
                lines.append(f"{path} is {found}, needs {want.dtype}{list(want.shape)}")
        if lines:
            raise UserError(f"{self.folder} is of another model: " + "; ".join(sorted(lines)))

"""Writes a cache part by part, so that a command that was killed goes on where it stopped.

First `plan.json`, what is to be made; then the parts, each written beside its place, flushed and
renamed; last `cache.json`, without which nothing opens the folder (data/cache.py). The file exists
to hold that order.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.strict_json import dumps
from vlp_jax.data.cache import FORMAT, MANIFEST, PLAN, part_name, plainly, read_manifest

_NEW = ".new"  # what is still being written
_PART = re.compile(r"part-([0-9]{5,})")
_LOCK = "lock"
_SAID = "arrays.json"


def part_rows_of(out: str) -> int | None:
    """Samples of a part of the cache, finished or not, in a folder; None where there is none."""
    for name in (MANIFEST, PLAN):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(Path(out, name).read_text(encoding="utf-8"))["part_rows"])
    return None


class CacheWriter:
    """The folder `out` of one plan: a JSON object that says all that the cache depends on."""

    def __init__(self, out: str, plan: Mapping[str, Any]):
        self.out, self.plan = out, json.loads(dumps({"format": FORMAT, **plan}))

    def begin(self) -> list[int] | None:
        """Numbers of the parts that are there already; None where the whole cache is.

        Raises:
          UserError: the folder holds something else, or a cache of another plan.
        """
        try:
            os.makedirs(self.out, exist_ok=True)
            names = [name for name in os.listdir(self.out) if name != _LOCK]
        except OSError as error:
            raise UserError(f"--out={self.out}: cannot be written ({error.strerror})") from error
        whole, begun = MANIFEST in names, [name for name in names if _is_begun(name)]
        known = read_manifest(self.out) if whole else self._planned()
        if known is None and len(begun) < len(names):
            raise UserError(f"--out={self.out}: exists, is not empty and is no cache")
        if known is not None:
            self._compare(known)
        for name in begun:
            _remove(os.path.join(self.out, name))
        if whole:
            _remove(os.path.join(self.out, PLAN))
            return None
        if known is None:
            self._write_json(PLAN, self.plan)
        return [int(found[1]) for found in map(_PART.fullmatch, names) if found]

    def _planned(self) -> dict[str, Any] | None:
        try:
            with open(os.path.join(self.out, PLAN), encoding="utf-8") as file:
                found = json.load(file)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"--out={self.out}: {PLAN} is damaged; remove the folder") from error
        if not isinstance(found, dict) or "format" not in found:
            raise UserError(f"--out={self.out}: {PLAN} is of no cache; choose another folder")
        return found

    def _compare(self, known: Mapping[str, Any]) -> None:
        other = [key for key in self.plan if known.get(key) != self.plan[key]]
        if other:
            what = f"holds a cache of other {', '.join(other)}"
            raise UserError(f"--out={self.out}: {what}; remove it or choose another folder")

    def write(self, number: int, arrays: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> None:
        """Writes a part, whole or not at all; said: what the manifest says of its arrays. Raises
        RunError: the disk."""
        place = os.path.join(self.out, part_name(number))
        try:
            _remove(place + _NEW)
            os.mkdir(place + _NEW)
            for name, array in arrays.items():
                with open(os.path.join(place + _NEW, f"{name}.npy"), "wb") as file:
                    np.save(file, plainly(array), allow_pickle=False)
                    _flush(file)
            self._write_json(f"{part_name(number)}{_NEW}/{_SAID}", said)
            _sync(place + _NEW)
            os.rename(place + _NEW, place)
            _sync(self.out)
        except OSError as error:
            raise RunError(f"{place}: cannot be written ({error.strerror or error})") from error

    def finish(self, parts: int) -> None:
        """Writes the manifest: from now on the cache opens. Raises RunError: the disk."""
        files = {}
        with open(os.path.join(self.out, part_name(0), _SAID), encoding="utf-8") as file:
            arrays = json.load(file)
        for part in map(part_name, range(parts)):
            for name in sorted(os.listdir(os.path.join(self.out, part))):
                files[f"{part}/{name}"] = os.path.getsize(os.path.join(self.out, part, name))
        self._write_json(MANIFEST, {**self.plan, "arrays": arrays, "files": files})
        _remove(os.path.join(self.out, PLAN))

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        path = os.path.join(self.out, name)
        try:
            with open(path + _NEW, "w", encoding="utf-8") as file:
                file.write(dumps(content, indent=1) + "\n")
                _flush(file)
            os.replace(path + _NEW, path)
            _sync(self.out)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error


def _is_begun(name: str) -> bool:
    """Whether a kill left what a writer of ours had begun under this name."""
    stem = name.removesuffix(_NEW)
    return stem != name and (stem in (MANIFEST, PLAN) or _PART.fullmatch(stem) is not None)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)

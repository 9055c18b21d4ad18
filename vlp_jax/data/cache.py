"""A cache: what functions of a model gave for the samples of a data set, as `data cache` writes it.

A folder with cache.json, the manifest, which comes last and says that the rest is whole, and parts:
`part-00000/ARRAY.npy`, one row a sample, or one a caption with the captions' ends in
`ARRAY.ends.npy`. Everything else of a sample (captions, labels, pictures for evaluation) is read
from the data set itself, which must still be the one that was cached. The file exists so that
training from a cache sees the same samples in the same order as training without it.
"""

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.caption import MAX_CHARACTERS, CaptionSpec
from vlp_jax.data.content import contents
from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.source import Example, Source, pictures_stamp

MANIFEST, PLAN, FORMAT = "cache.json", "plan.json", 1
ROW, CAPTION = "row", "caption"  # what an array has a row of


def is_cache(path: str) -> bool:
    """Whether a folder is a cache, or one that is not finished."""
    return any(os.path.isfile(os.path.join(path, name)) for name in (MANIFEST, PLAN))


@functools.lru_cache(8)
def _parsed(path: str, stamp: int) -> dict[str, Any]:
    del stamp
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise UserError(f"{path}: no manifest of a cache: {error}") from error


def read_manifest(folder: str) -> dict[str, Any]:
    """cache.json of a folder.

    Raises:
      UserError: the cache is not finished, of another format, or files of it are missing or cut.
    """
    path = os.path.join(folder, MANIFEST)
    if not os.path.isfile(path):
        raise UserError(f"{folder}: a cache that is not finished; run its `data cache` again")
    found = _parsed(path, os.stat(path).st_mtime_ns)
    if found.get("format") != FORMAT:
        raise UserError(f"{path}: format {found.get('format')}, this version reads {FORMAT}")
    return found


def caches(source: Any) -> list["CacheSource"]:
    """The caches that a source is made of; [] where there is none."""
    if isinstance(source, CacheSource):
        return [source]
    inside = [source.whole] if hasattr(source, "whole") else getattr(source, "sources", [])
    return [found for part in inside for found in caches(part)]


def part_name(number: int) -> str:
    """The folder of a part."""
    return f"part-{number:05}"


class CacheSource:
    """The data set that a cache was made of; samples gain `cached`, f(array) -> the sample's row,
    or f(array, text, spec) -> that of one of its captions.

    Args:
      open_source: opens the data set.

    Raises:
      UserError: an unfinished or cut cache, a data set that is gone or has changed since.
    """

    notes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: str, open_source: Callable[[str], Source]):
        self.folder, self.manifest = folder, read_manifest(folder)
        self.arrays: dict[str, Any] = self.manifest["arrays"]
        self.whole = self._origin(open_source)
        self.damage: Sequence[Damage] = self.whole.damage
        self.fingerprint = self.whole.fingerprint
        if hasattr(self.whole, "classes"):
            self.classes = self.whole.classes
        for name, size in self.manifest["files"].items():
            path = os.path.join(folder, name)
            there = os.path.getsize(path) if os.path.isfile(path) else -1
            if there != size:
                what = "is missing" if there < 0 else f"has {there} bytes of {size}"
                raise UserError(f"{path}: {what}; remove {folder!r} and run its `data cache` again")
        self._open: dict[str, np.ndarray] = {}

    def _origin(self, open_source: Callable[[str], Source]) -> Source:
        path = self.manifest["path"]
        try:
            found = open_source(path)
        except UserError as error:
            raise UserError(f"{self.folder}: its data set {path!r}: {error}") from error
        known = self.manifest["fingerprint"], self.manifest["stamp"], self.manifest["rows"]
        touched = self.manifest.get("pictures", "") not in ("", pictures_stamp(found))
        if touched or known != (found.fingerprint, getattr(found, "stamp", ""), len(found)):
            what = f"its data set {path!r} has changed since"
            raise UserError(f"{self.folder}: {what}; remove it and run its `data cache` again")
        return found

    @property
    def stamp(self) -> str:
        """Changes with the captions where the fingerprint of the whole does not cover them."""
        return getattr(self.whole, "stamp", "")

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, i: int) -> Example:
        return self._with_arrays(self.whole[i], i)

    def metadata(self, i: int) -> Example:
        return self._with_arrays(self.whole.metadata(i), i)

    def _with_arrays(self, example: Example, i: int) -> Example:
        return {**example, "cached": functools.partial(self._find, example, i)}

    def _find(
        self, example: Example, i: int, name: str, text: str = "", spec: CaptionSpec | None = None
    ) -> np.ndarray:
        """The row of a sample, or with a spec that of one of the texts that it may show."""
        if spec is None:
            return self.array(i, name)
        known = [one[:MAX_CHARACTERS] for one in spec.texts(example)]
        if text not in known:
            raise DamagedSample("not_cached", f"{self.where(i)}: {text!r}")
        return self.array(i, name, known.index(text))

    def where(self, i: int) -> str:
        return self.whole.where(i)

    def contents(self, rows: np.ndarray) -> np.ndarray:
        """See `content.contents`."""
        return contents(self.whole, rows)

    def array(self, i: int, name: str, caption: int | None = None) -> np.ndarray:
        """What the cache holds of sample i, or of its caption of that number, under a name.

        Raises:
          DamagedSample: the sample could not be read when it was cached, or has no such caption.
        """
        number, row = divmod(i, self.manifest["part_rows"])
        part = part_name(number)
        if caption is None:
            if not self._file(f"{part}/sound.npy")[row]:
                raise DamagedSample("not_cached", self.where(i))
        else:
            ends = self._file(f"{part}/{name}.ends.npy")
            first = int(ends[row - 1]) if row else 0
            row, end = first + caption, int(ends[row])
            if row >= end:
                raise DamagedSample("not_cached", f"{self.where(i)}: caption {caption}")
        found = self._file(f"{part}/{name}.npy")[row]
        return found.view(jnp.dtype(self.arrays[name]["dtype"]))

    def _file(self, name: str) -> np.ndarray:
        if name not in self._open:
            path = os.path.join(self.folder, name)
            try:
                self._open[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise RunError(f"{path}: cannot be read ({error})") from error
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # every process opens the files itself


def plainly(array: np.ndarray) -> np.ndarray:
    """An array in a dtype that .npy knows: bfloat16 as the uint16 of its bits."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def described(arrays: Mapping[str, np.ndarray], per: str) -> dict[str, dict[str, Any]]:
    """What the manifest says of arrays whose first axis is the rows."""
    return {
        name: {"shape": list(array.shape[1:]), "dtype": str(array.dtype), "per": per}
        for name, array in arrays.items()
    }

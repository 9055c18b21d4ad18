"""The arrays of one part of a cache: functions run over samples, and over captions.

The file exists so that what a cache holds is decided apart from where it is written.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from vlp_jax.api.placement import Run, fill
from vlp_jax.core.errors import RunError
from vlp_jax.core.fields import batch_spec
from vlp_jax.core.pytree import flatten
from vlp_jax.data.cache import CAPTION, ROW, described
from vlp_jax.data.caption import MAX_CHARACTERS
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.evaluation import EvalReader
from vlp_jax.data.fields.base import Reader, stack
from vlp_jax.data.source import Source

_COLUMNS = 16  # texts are cut to the next multiple of so many tokens


@dataclasses.dataclass(frozen=True)
class PartMaker:
    """Computes parts; all processes of a job call it alike.

    Attributes:
      source: the data set.
      functions: {name: f(batch) -> a tree of [b, ...]}.
      rows: readers of what the functions of samples read, and of `kept`, arrays that are kept as
        they are read.
      captions: {function: its reader of captions}; most: of so many of a sample (0: of all).
      batch_size, part_rows, threads: see api/cache.py.
    """

    source: Source
    functions: Mapping[str, Run]
    rows: Mapping[str, Reader]
    captions: Mapping[str, Any]
    kept: tuple[str, ...]
    most: int
    batch_size: int
    part_rows: int
    threads: int

    @property
    def parts(self) -> int:
        """How many there are."""
        return -(-len(self.source) // self.part_rows)

    def part(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """({array: rows} of a part, with `sound` bool[n], and the captions' ends int64[n] under
        `NAME.ends`; what the manifest says of them)."""
        first = number * self.part_rows
        rows = range(first, min(first + self.part_rows, len(self.source)))
        found = self._samples(rows) if self.rows else {"sound": np.ones(len(rows), bool)}
        said = described({n: array for n, array in found.items() if n != "sound"}, ROW)
        for name, reader in self.captions.items():
            texts = [self._texts(reader, i) for i in rows]
            values = self._embed(name, reader, [text for some in texts for text in some])
            said |= described({name: values}, CAPTION)
            ends = np.cumsum([len(some) for some in texts], dtype=np.int64)
            found |= {name: values, f"{name}.ends": ends}
        return found, said

    def _samples(self, rows: range) -> dict[str, np.ndarray]:
        names = [name for name in self.functions if name not in self.captions]
        sound, found = np.zeros(len(rows), bool), {}
        for start, at, batch in self._batches(rows):
            sound[start + at] = True
            outputs = {name: batch[name][: len(at)] for name in self.kept}
            filled = {name: fill(array, self.batch_size) for name, array in batch.items()}
            numbers = at if len(at) else np.zeros(1, np.int64)
            index = fill((rows[0] + start + numbers).astype(np.int32), self.batch_size)
            for name in names:
                outputs |= _named(name, self.functions[name](filled, index=index), len(at))
            for name, values in outputs.items():
                self._check(name, values, rows[0] + start + at)
                whole = found.setdefault(
                    name, np.zeros((len(rows), *values.shape[1:]), values.dtype)
                )
                whole[start + at] = values
        return {**found, "sound": sound}

    def _batches(self, rows: range) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray]]]:
        """(first row in the part, int[b] which rows after it are sound, their arrays); one batch is
        read ahead. Of a part without a sound one no row, and arrays of zeros."""
        read = EvalReader(self.source, self.rows)
        starts, some = range(0, len(rows), self.batch_size), False
        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            ask = lambda s: [pool.submit(read, i) for i in rows[s : s + self.batch_size]]  # noqa: E731
            ahead = ask(0)
            for start in starts:
                futures, ahead = ahead, ask(start + self.batch_size)
                made = [future.result() for future in futures]
                at = [k for k, row in enumerate(made) if not isinstance(row, DamagedSample)]
                some = some or bool(at)
                if at:
                    yield start, np.asarray(at), stack(self.rows, [made[k] for k in at])
        if not some:  # what the part holds, without rows
            spec = batch_spec({name: one.field for name, one in self.rows.items()}, 1)
            blank = {name: np.zeros(array.shape, array.dtype) for name, array in spec.items()}
            yield 0, np.zeros(0, np.int64), blank

    def _texts(self, reader: Any, i: int) -> list[str]:
        try:
            texts = reader.captions.texts(self.source.metadata(i))
        except DamagedSample:
            return []
        return [text[:MAX_CHARACTERS] for text in texts[: self.most or None]]

    def _embed(self, name: str, reader: Any, texts: Sequence[str]) -> np.ndarray:
        """Rows of texts, equal ones computed once, those of like length together."""
        length = {text: reader.tokenizer.length(text) for text in texts}
        order = sorted(length, key=lambda text: (length[text], text))
        if not order:
            order = [""]  # for the shape alone
        found = []
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            most = max(length.get(text, 1) for text in some)
            limit = -(-most // _COLUMNS) * _COLUMNS if reader.cut else None
            batch = reader.arrays(some, limit)
            if limit:
                batch = {array: rows[:, :limit] for array, rows in batch.items()}
            filled = {array: fill(rows, self.batch_size) for array, rows in batch.items()}
            found.append(np.asarray(self.functions[name](filled))[: len(some)])
        whole = np.concatenate(found)
        self._check(name, whole, None)
        place = {text: k for k, text in enumerate(order)}
        return whole[np.asarray([place[text] for text in texts], np.int64)]

    def _check(self, name: str, values: np.ndarray, rows: np.ndarray | None) -> None:
        """Raises RunError where an output is not finite."""
        if values.dtype.kind in "iub" or not len(values):
            return
        good = np.isfinite(values.astype(np.float32)).reshape(len(values), -1).all(1)
        if not good.all():
            bad = int(np.flatnonzero(~good)[0])
            where = self.source.where(int(rows[bad])) if rows is not None else "a caption"
            raise RunError(f"{name} of {where} is not finite")


def _named(name: str, out: Any, count: int) -> dict[str, np.ndarray]:
    """A function's output as arrays by name; a tree's leaves as NAME_PATH."""
    if not isinstance(out, Mapping):
        return {name: np.asarray(out)[:count]}
    leaves = flatten(out).items()
    return {f"{name}_{path.replace('/', '_')}": np.asarray(a)[:count] for path, a in leaves}


def digests(tree: Mapping[str, Any]) -> dict[str, str]:
    """{path: dtype and digest} of weights."""
    found = {}
    for path, leaf in tree.items():
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)  # of equal placements: the same share everywhere
        array = np.ascontiguousarray(np.asarray(leaf))
        sha = hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()
        found[path] = f"{array.dtype} {sha}"
    return found

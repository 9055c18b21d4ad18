"""WebDataset tars as a random-access source.

Format: files named KEY.SUFFIX, as img2dataset, DataComp and CC12M-wds write them. As in WebDataset
a key ends at the first dot of the file's name, and `000.seg.png` is a further member of the sample
with the picture `000.jpg`, read when a field asks for `seg.png`. But people's names have dots:
`my.cat.jpg` is a sample of its own, with the key `my.cat`, where it has a text, JSON or class of
its own or no shorter key has a picture. The file exists so that the field's native format can be
shuffled globally and resumed exactly, without unpacking or streaming it.
"""

import bisect
import functools
import itertools
import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vlp_jax.core.errors import RunError, UserError, printable
from vlp_jax.data.content import identity
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.encoding import decode_json, decode_text
from vlp_jax.data.index import load, open_index
from vlp_jax.data.shard import ShardFile, expand_shards
from vlp_jax.data.shard_index import ROLES, ShardIndex
from vlp_jax.data.source import Example, Members, captions_of, digest
from vlp_jax.data.walk import tell, told

MAX_OPEN = 512  # with more shards than this, files are opened for each read
_GAP = 16 * 1024  # members closer than this are read by one pread
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")  # int64


def _parse_cls(data: bytes, where: str) -> int | str:
    """A class number or name. Raises DamagedSample where it is neither."""
    text = decode_text(data.strip(b"\0"), where).strip()
    if not text:
        raise DamagedSample("bad_class", where)
    return int(text) if _NUMBER.fullmatch(text) else text


def _check(data: bytes, length: int, crc: int, where: str) -> None:
    if len(data) != length:
        raise DamagedSample("cut_data", where)
    if zlib.crc32(data) != crc:
        raise DamagedSample("checksum", where)


class _Shard:
    """One tar with its index, which is reloaded from disk where this was unpickled."""

    def __init__(self, path: str, index: ShardIndex, stored: str | None):
        self.path, self.stored, self.count = path, stored, len(index)
        self.file, self._index = ShardFile(path), index

    def __getstate__(self):
        return {**self.__dict__, "_index": None if self.stored else self._index}

    @property
    def index(self) -> ShardIndex:
        if self._index is None:
            self._index = load(self.stored, self.path)
            if self._index is None or len(self._index) != self.count:
                raise RunError(f"{self.stored}: index changed or vanished while it was in use")
        return self._index

    def read(self, row: int, roles: tuple[int, ...], where: str) -> dict[str, bytes]:
        """The members of one sample by role, checked against the index. Raises DamagedSample."""
        offset, length = self.index.offset[row].tolist(), self.index.length[row].tolist()
        roles = [r for r in roles if offset[r]]
        if not roles:
            return {}
        start, end = min(offset[r] for r in roles), max(offset[r] + length[r] for r in roles)
        try:
            if end - start <= sum(length[r] for r in roles) + _GAP:
                span = memoryview(self.file.read(start, end - start))
                found = {
                    r: bytes(span[offset[r] - start : offset[r] - start + length[r]]) for r in roles
                }
            else:
                found = {r: self.file.read(offset[r], length[r]) for r in roles}
        except OSError as error:
            raise DamagedSample("unreadable_file", where) from error
        for role, data in found.items():
            _check(data, length[role], int(self.index.crc[row, role]), where)
        return {ROLES[role]: data for role, data in found.items()}

    def member(self, row: int, suffix: str, where: str) -> bytes | None:
        """One member of a sample, None where it has none of the suffix. Raises DamagedSample."""
        place = self.index.members(row).get(suffix)
        if place is None:
            return None
        offset, length, crc = place
        try:
            data = self.file.read(offset, length)
        except OSError as error:
            raise DamagedSample("unreadable_file", where) from error
        _check(data, length, crc, where)
        return data


class TarSource:
    """Samples of all tars that `pattern` names, in shard order, then in the order of each tar;
    paths: in place of the pattern's, in their order.

    Example: {'key', 'image' bytes, 'text' captions, 'meta' the sample's JSON; 'cls' and 'shard' are
    added, 'members' all files by suffix, of which the further ones are listed}. Raises UserError
    where no shard or no sample is found, RunError where damage left no sample.
    """

    def __init__(self, pattern: str, rebuild: bool = False, paths: Sequence[str] = ()):
        self.pattern = pattern
        paths = paths or expand_shards(pattern)
        with ThreadPoolExecutor(min(8, len(paths))) as pool:
            indices = list(pool.map(lambda path: self._open(path, rebuild), paths))
        self._shards = [
            _Shard(p, index, stored) for p, (index, stored) in zip(paths, indices, strict=True)
        ]
        for shard in self._shards:
            shard.file.transient = len(paths) > MAX_OPEN
        self._ends = list(itertools.accumulate(shard.count for shard in self._shards))
        self.damage = [damage for index, _ in indices for damage in index.damage]
        self.fingerprint = digest(index.digest for index, _ in indices)
        left = told(sum((Counter(index.left_out) for index, _ in indices), Counter()))
        further = told(sum((index.further_counts for index, _ in indices), Counter()))
        words = (
            f"further members: {further}" if further else "",
            f"left out: {left}" if left else "",
        )
        line = "; ".join([f"{printable(pattern)}: {len(self)} samples", *filter(None, words)])
        self.notes: tuple[str, ...] = (line,) if any(words) else ()
        self._check(left)
        for note in self.notes:
            tell(note)

    def _open(self, path: str, rebuild: bool) -> tuple[ShardIndex, str | None]:
        try:
            return open_index(path, rebuild)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read shard {path!r}: {error}") from error

    def _check(self, left: str) -> None:
        if not len(self):
            if self.damage:
                first = self.damage[0]
                raise RunError(f"no sample left in {self.pattern!r}: {first.where}: {first.reason}")
            raise UserError(
                f"no samples in {self.pattern!r} (expected KEY.jpg, with captions KEY.txt or "
                "KEY.json)" + (f"; it holds {left}" if left else "")
            )

    @property
    def shards(self) -> list[tuple[str, ShardIndex]]:
        """Path and index of every shard."""
        return [(shard.path, shard.index) for shard in self._shards]

    @property
    def stored(self) -> list[tuple[str, str | None, ShardIndex]]:
        """Path, path of the stored index (None where no place was writable) and index of every
        shard."""
        return [(shard.path, shard.stored, shard.index) for shard in self._shards]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _locate(self, i: int) -> tuple[_Shard, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        at = bisect.bisect_right(self._ends, i)
        return self._shards[at], i - (self._ends[at - 1] if at else 0)

    def where(self, i: int) -> str:
        shard, row = self._locate(i)
        return f"{printable(shard.path)}: {shard.index.keys[row]!r}"

    def _example(self, i: int, roles: tuple[int, ...]) -> Example:
        (shard, row), where = self._locate(i), self.where(i)
        found = shard.read(row, roles, where)
        meta = decode_json(found["json"], where) if "json" in found else {}
        if "cls" in found:
            meta.setdefault("cls", _parse_cls(found["cls"], where))
        meta.setdefault("shard", printable(os.path.basename(shard.path)))
        text = decode_text(found["txt"], where) if "txt" in found else None
        key = printable(shard.index.keys[row])
        members = Members(
            functools.partial(shard.member, row, where=where),
            functools.partial(shard.index.further_names, row),
        )
        text = captions_of(text, meta)
        example = {"key": key, "text": text, "meta": meta, "members": members}
        return {**example, "image": found["image"]} if "image" in found else example

    def contents(self, rows: np.ndarray) -> np.ndarray:
        """See `content.contents`; the indices have it."""
        shards = [(shard.index.crc[:, 0], shard.index.length[:, 0]) for shard in self._shards]
        crc, length = (np.concatenate(columns) for columns in zip(*shards, strict=True))
        return identity(crc[rows], length[rows])

    def metadata(self, i: int) -> Example:
        """Key, captions and meta of sample i, without its picture. Raises DamagedSample."""
        return self._example(i, (1, 2, 3))

    def __getitem__(self, i: int) -> Example:
        return self._example(i, (0, 1, 2, 3))

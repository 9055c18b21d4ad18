"""What one pass over a tar learns, in memory: which members make which sample, and where they lie.

The file exists as that one record: made by tar_members.py, stored by index.py, read by tar.py.
"""

import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from vlp_jax.core.errors import printable
from vlp_jax.data.damage import Damage
from vlp_jax.data.shard import ShardFile

VERSION = 3  # 2: four members a sample; 1: names with several dots were no samples
ROLES = ("image", "txt", "json", "cls")
ARRAYS = {"offset": np.int64, "length": np.uint32, "crc": np.uint32}


@dataclass
class ShardIndex:
    """The listing of one tar; row i is sample i, columns are ROLES, a length of 0 and offset 0 is
    absent.

    keys: list[str]; offset: int64[N, 4]; length, crc: uint32[N, 4]; tokens: int32[N], words and
    punctuation of the caption; damage: what the pass met; size, probe: the file it was made from;
    left_out: counts of members of no sample, by a word. suffixes: list[str]; picture: int32[N], the
    picture's own among them; further: int64[5, M], sample, suffix, offset, length and CRC-32 of
    every member beside the four, by sample.
    """

    keys: list[str]
    offset: np.ndarray
    length: np.ndarray
    crc: np.ndarray
    tokens: np.ndarray
    damage: list[Damage]
    size: int
    probe: int
    left_out: dict[str, int] = field(default_factory=dict)
    suffixes: list[str] = field(default_factory=list)
    picture: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    further: np.ndarray = field(default_factory=lambda: np.zeros((5, 0), np.int64))
    version: int = VERSION

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, row: int) -> dict[str, tuple[int, int, int]]:
        """{suffix: (offset, length, CRC-32)} of everything that a sample has."""
        names = (self.suffixes[self.picture[row]], *ROLES[1:])
        found = {
            name: (int(self.offset[row, i]), int(self.length[row, i]), int(self.crc[row, i]))
            for i, name in enumerate(names)
            if self.offset[row, i]
        }
        for _, name, *place in self._further(row):
            found[self.suffixes[name]] = tuple(place)
        return found

    def further_names(self, row: int) -> list[str]:
        """Suffixes of what a sample has beside the four."""
        return [self.suffixes[name] for _, name, *_ in self._further(row)]

    def _further(self, row: int) -> list[list[int]]:
        start, end = np.searchsorted(self.further[0], (row, row + 1))
        return self.further[:, start:end].T.tolist()

    @property
    def further_counts(self) -> Counter:
        """{suffix: how many samples have such a member beside the four}."""
        numbers = np.bincount(self.further[1], minlength=len(self.suffixes)).tolist()
        names = map(printable, self.suffixes)
        return Counter({n: k for n, k in zip(names, numbers, strict=True) if k})

    @property
    def digest(self) -> str:
        """32 hex digits over keys, offsets, lengths and checksums: the content, not the place."""
        state = hashlib.blake2b(
            "\0".join(self.keys).encode("utf-8", "surrogateescape"), digest_size=16
        )
        for name in ARRAYS:
            state.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        if self.further.size:  # those of other tars stay what they were
            state.update("\0".join(self.suffixes).encode("utf-8", "surrogateescape"))
            state.update(self.further.tobytes())
        return state.hexdigest()


def probe(file: ShardFile) -> int:
    """CRC-32 of the end and 16 spread pieces of a file, to notice a replacement of equal size.

    The end covers tar's padding of 10 KiB, into which members can be appended. Other changes inside
    members are found when they are read, by their own CRC.
    """
    crc = zlib.crc32(file.read(max(0, file.size - 16384), 16384))
    for i in range(16):
        crc = zlib.crc32(file.read(file.size * i // 16, 512), crc)
    return crc

"""Which members of a tar make a sample: the rule of tar.py, in one pass that reads them all.

The file exists so that everything in a tar is either part of a sample, counted as left out, or
damage.
"""

import re
import zlib
from collections import Counter

import numpy as np

from vlp_jax.core.errors import printable
from vlp_jax.data.damage import Damage
from vlp_jax.data.shard import ShardFile
from vlp_jax.data.shard_index import ARRAYS, ROLES, ShardIndex, probe
from vlp_jax.data.tar_walk import Member, Walk
from vlp_jax.data.walk import IMAGE_SUFFIXES, kind_of, suffix_of, unwanted

# Larger members of a role are damage ('too_large'), further ones are left out, so that a hostile
# tar cannot fill memory.
MAX_MEMBER = 64 * 2**20
_ROLE = {**dict.fromkeys(IMAGE_SUFFIXES, 0), "txt": 1, "json": 2, "cls": 3}
_META = re.compile(r"__.*__", re.DOTALL)  # WebDataset's own members
_TOKEN = re.compile(r"\w+|[^\w\s]")


def count_tokens(text: str) -> int:
    """Words and punctuation marks of a caption: an estimate of its length for any tokenizer."""
    return sum(1 for _ in _TOKEN.finditer(text))


def _left_out(name: str) -> str:
    """Why a member can be no part of a sample, as a word to count by, or ''."""
    parts = [part for part in name.split("/") if part not in ("", ".")] or [""]
    for part in parts:
        reason = unwanted(part) or ("metadata" if _META.fullmatch(part) else "")
        if reason:
            return reason
    return ""


def _prefixes(key: str) -> list[str]:
    """The keys that a dotted name may be a further member of: 'x/a.b.c' -> ['x/a', 'x/a.b']."""
    head, slash, base = key.rpartition("/")
    parts = base.split(".")
    return [head + slash + ".".join(parts[:count]) for count in range(1, len(parts))]


class _Builder:
    """Gathers members by their names up to the last dot, then says which of those are samples."""

    def __init__(self, file: ShardFile):
        self.file, self.rows, self.damage = file, {}, []
        self.left_out: Counter = Counter()
        self._others: list[Member] = []  # of none of the roles, or further ones of a role
        self._duplicate = None

    def _read(self, member: Member, role: int | None) -> tuple[int, int, int, int]:
        """Offset, length and CRC-32 of a member and the tokens of a caption."""
        crc, text, offset, keep = 0, b"", member.offset, role == 1
        while offset < member.offset + member.length:
            piece = self.file.read(offset, min(2**23, member.offset + member.length - offset))
            if not piece:
                break
            crc, offset = zlib.crc32(piece, crc), offset + len(piece)
            text = text + piece if keep and len(text) < 2**20 else text
        return member.offset, member.length, crc, count_tokens(text.decode("utf-8", "replace"))

    def add(self, member: Member) -> None:
        reason = _left_out(member.name)
        if reason:
            self.left_out[reason] += 1
            return
        if self._duplicate is not None and member.name.startswith(f"{self._duplicate}."):
            if member.name.rpartition(".")[0] != self._duplicate:
                self.left_out["of a repeated sample"] += 1
            return
        self._duplicate = None
        if suffix_of(member.name.rpartition("/")[2]) not in _ROLE:
            self._others.append(member)
            return
        key, _, suffix = member.name.rpartition(".")
        suffix = suffix.lower()
        role, where = _ROLE[suffix], f"{self.file.path}: {key!r}"
        row = self.rows.setdefault(key, {"names": set()})
        if suffix in row["names"]:
            self.damage.append(Damage("duplicate_key", where))
            self._duplicate = key
            return
        row["names"].add(suffix)
        if member.length > MAX_MEMBER:
            self.damage.append(Damage("too_large", f"{where}.{suffix}"))
        elif role in row:
            self._others.append(member)
        else:  # a dotted name may yet turn out to be no sample and need no reading
            row[role] = member if _prefixes(key) else self._read(member, role)
            if role == 0:
                row["suffix"] = suffix

    def _samples(self) -> dict[str, dict]:
        """Rows by key without those that are further members of other samples."""
        kept = {}
        for key, row in self.rows.items():
            whole = 0 in row and any(role in row for role in (1, 2, 3))
            if not whole and any(0 in self.rows.get(prefix, ()) for prefix in _prefixes(key)):
                self._others += [entry for entry in row.values() if isinstance(entry, Member)]
                continue
            kept[key] = {
                role: self._read(entry, role) if isinstance(entry, Member) else entry
                for role, entry in row.items()
            }
        return kept

    def _further(self, rows: dict[str, dict]) -> tuple[list[str], np.ndarray]:
        """Suffixes and `ShardIndex.further` of the members beside the four: each belongs to the
        longest key of a sample that its name begins with, up to a dot."""
        places, found = {key: number for number, key in enumerate(rows)}, {}
        for member in self._others:
            keys = [key for key in _prefixes(member.name) if key in places]
            if not keys:
                self.left_out[kind_of(member.name.rpartition("/")[2])] += 1
                continue
            suffix = member.name[len(keys[-1]) + 1 :].lower()
            place = places[keys[-1]], suffix
            if place in found:
                self.left_out[f"repeated .{printable(suffix)}"] += 1
            elif member.length > MAX_MEMBER:
                self.left_out[f"too large .{printable(suffix)}"] += 1
            else:
                found[place] = self._read(member, None)[:3]
        own = {row.get("suffix", "") for row in rows.values()}
        suffixes = sorted(own | {suffix for _, suffix in found})
        number = {suffix: i for i, suffix in enumerate(suffixes)}
        table = sorted((row, number[suffix], *where) for (row, suffix), where in found.items())
        return suffixes, np.ascontiguousarray(np.asarray(table, np.int64).reshape(-1, 5).T)

    def finish(self) -> ShardIndex:
        rows = self._samples()
        for need, reason in (((0,), "no_image"), ((1, 2, 3), "no_caption")):
            lacking = {key for key, row in rows.items() if not any(role in row for role in need)}
            if len(lacking) < len(rows):
                self.damage += [
                    Damage(reason, f"{self.file.path}: {k!r}") for k in rows if k in lacking
                ]
                rows = {key: row for key, row in rows.items() if key not in lacking}
        table = [[row.get(role, (0,) * 4) for role in range(len(ROLES))] for row in rows.values()]
        table = np.asarray(table, np.int64).reshape(-1, len(ROLES), 4)
        suffixes, further = self._further(rows)
        number = {suffix: i for i, suffix in enumerate(suffixes)}
        picture = [number[row.get("suffix", "")] for row in rows.values()]
        columns = {
            n: np.ascontiguousarray(table[..., i].astype(t))
            for i, (n, t) in enumerate(ARRAYS.items())
        }
        return ShardIndex(
            list(rows),
            **columns,
            tokens=table[:, 1, 3].astype(np.int32),
            damage=self.damage,
            size=self.file.size,
            probe=probe(self.file),
            left_out=dict(self.left_out),
            suffixes=suffixes,
            picture=np.asarray(picture, np.int32),
            further=further,
        )


def build(file: ShardFile) -> ShardIndex:
    """Walks a tar once and returns its index; damage is listed, never silent. Raises OSError."""
    builder = _Builder(file)
    for event in Walk(file):
        if isinstance(event, Member):
            builder.add(event)
        else:
            builder.damage.append(event)
    return builder.finish()

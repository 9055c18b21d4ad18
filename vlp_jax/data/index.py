"""`SHARD.index`: what one pass over a tar learns, so that every later read is one `pread`.

A zip of plain NumPy arrays (no pickle) with key, member offsets, lengths and CRC-32, caption token
count, the damage met and a digest of it all. The file exists because random access makes shuffling,
resuming and counting losses exact, which streaming a tar cannot do.
"""

import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from vlp_jax.data.damage import Damage
from vlp_jax.data.shard import ShardFile, is_remote
from vlp_jax.data.tar_walk import Member, Walk
from vlp_jax.data.walk import IMAGE_SUFFIXES, kind_of, suffix_of, tell, unwanted

VERSION = 2  # 1: names with several dots were no samples
_READABLE = (1, VERSION)  # of the same form; an older one is only asked what a damaged tar has lost
ROLES = ("image", "txt", "json", "cls")
MAX_MEMBER = (
    64 * 2**20
)  # larger members are damage ('too_large'), so that a hostile tar cannot fill memory
_ROLE = {**dict.fromkeys(IMAGE_SUFFIXES, 0), "txt": 1, "json": 2, "cls": 3}
_META = re.compile(r"__.*__", re.DOTALL)  # WebDataset's own members
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ARRAYS = {"offset": np.int64, "length": np.uint32, "crc": np.uint32}


@dataclass
class ShardIndex:
    """The listing of one tar; row i is sample i, columns are ROLES, a length of 0 and offset 0 is
    absent.

    keys: list[str]; offset: int64[N, 4]; length, crc: uint32[N, 4]; tokens: int32[N], words and
    punctuation of the caption; damage: what the pass met; size, probe: the file it was made from;
    left_out: counts of members that no sample reads, by a word.
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
    version: int = VERSION

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> str:
        """32 hex digits over keys, offsets, lengths and checksums: the content, not the place."""
        state = hashlib.blake2b(
            "\0".join(self.keys).encode("utf-8", "surrogateescape"), digest_size=16
        )
        for name in _ARRAYS:
            state.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return state.hexdigest()


def count_tokens(text: str) -> int:
    """Words and punctuation marks of a caption: an estimate of its length for any tokenizer."""
    return sum(1 for _ in _TOKEN.finditer(text))


def probe(file: ShardFile) -> int:
    """CRC-32 of the end and 16 spread pieces of a file, to notice a replacement of equal size.

    The end covers tar's padding of 10 KiB, into which members can be appended. Other changes inside
    members are found when they are read, by their own CRC.
    """
    crc = zlib.crc32(file.read(max(0, file.size - 16384), 16384))
    for i in range(16):
        crc = zlib.crc32(file.read(file.size * i // 16, 512), crc)
    return crc


def _left_out(name: str) -> str:
    """Why a member is no part of a sample, as a word to count by, or ''."""
    parts = [part for part in name.split("/") if part not in ("", ".")] or [""]
    for part in parts:
        reason = unwanted(part) or ("metadata" if _META.fullmatch(part) else "")
        if reason:
            return reason
    return "" if suffix_of(parts[-1]) in _ROLE else kind_of(parts[-1])


def _prefixes(key: str) -> list[str]:
    """The keys that a dotted one may be a further field of: 'x/a.b.c' -> ['x/a', 'x/a.b']."""
    head, slash, base = key.rpartition("/")
    parts = base.split(".")
    return [head + slash + ".".join(parts[:count]) for count in range(1, len(parts))]


class _Builder:
    """Gathers members by their names up to the last dot, then says which of those are samples."""

    def __init__(self, file: ShardFile):
        self.file, self.rows, self.damage = file, {}, []
        self.left_out: Counter = Counter()
        self._duplicate = None

    def _read(self, member: Member, role: int) -> tuple[int, int, int, int]:
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
        key, _, suffix = member.name.rpartition(".")
        suffix = suffix.lower()
        role, where = _ROLE[suffix], f"{self.file.path}: {key!r}"
        row = self.rows.setdefault(key, {"names": set()})
        if suffix in row["names"]:
            if self._duplicate != key:
                self.damage.append(Damage("duplicate_key", where))
            self._duplicate = key
            return
        if self._duplicate == key:
            return
        self._duplicate = None
        row["names"].add(suffix)
        if member.length > MAX_MEMBER:
            self.damage.append(Damage("too_large", f"{where}.{suffix}"))
        elif role in row:
            self.left_out[f"further .{suffix}"] += 1
        else:  # a dotted name may yet turn out to be no sample and need no reading
            row[role] = member if _prefixes(key) else self._read(member, role)

    def _samples(self) -> dict[str, dict]:
        """Rows by key without those that are further fields of other samples."""
        kept = {}
        for key, row in self.rows.items():
            whole = 0 in row and any(role in row for role in (1, 2, 3))
            if not whole and any(0 in self.rows.get(prefix, ()) for prefix in _prefixes(key)):
                self.left_out.update(f"further .{suffix}" for suffix in row["names"])
                continue
            kept[key] = {
                role: self._read(entry, role) if isinstance(entry, Member) else entry
                for role, entry in row.items()
                if role != "names"
            }
        return kept

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
        columns = {
            n: np.ascontiguousarray(table[..., i].astype(t))
            for i, (n, t) in enumerate(_ARRAYS.items())
        }
        return ShardIndex(
            list(rows),
            **columns,
            tokens=table[:, 1, 3].astype(np.int32),
            damage=self.damage,
            size=self.file.size,
            probe=probe(self.file),
            left_out=dict(self.left_out),
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


def save(index: ShardIndex, path: str, shard: str) -> None:
    """Writes an index atomically; the same index gives the same bytes. Raises OSError."""
    prefix = len(shard)
    meta = {
        "version": VERSION,
        "left_out": index.left_out,
        "size": index.size,
        "probe": index.probe,
        "digest": index.digest,
        "samples": len(index),
        "roles": ROLES,
        "damage": [[d.reason, d.where[prefix:]] for d in index.damage],
    }
    keys = "\0".join(index.keys).encode("utf-8", "surrogateescape")
    arrays = {name: getattr(index, name) for name in (*_ARRAYS, "tokens")}
    arrays["keys"] = np.frombuffer(keys, np.uint8)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode("utf-8", "surrogateescape"), np.uint8)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".index-")
    try:
        with (
            os.fdopen(handle, "wb") as out,
            zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name, array in arrays.items():
                data = io.BytesIO()
                np.lib.format.write_array(data, array, allow_pickle=False)
                entry = zipfile.ZipInfo(
                    f"{name}.npy"
                )  # its fixed date keeps the bytes reproducible
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data.getvalue())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str, shard: str) -> ShardIndex | None:
    """Reads an index, of an older `version` too; None when it is missing or not readable as one."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            keys = arrays["keys"].tobytes().decode("utf-8", "surrogateescape")
            columns = {name: arrays[name].astype(dtype) for name, dtype in _ARRAYS.items()}
            tokens = arrays["tokens"]
        keys = keys.split("\0") if keys else []
        damage = [Damage(reason, shard + where) for reason, where in meta["damage"]]
        shape = (len(keys), len(ROLES))
        if meta["version"] not in _READABLE or any(c.shape != shape for c in columns.values()):
            return None
        index = ShardIndex(
            keys, **columns, tokens=tokens, damage=damage, size=meta["size"], probe=meta["probe"]
        )
        index.version, index.left_out = meta["version"], meta.get("left_out", {})
        return index if index.digest == meta["digest"] else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
    ):
        return None


def index_path(shard: str) -> str:
    """Where the index of a shard belongs: beside it, `x-000.tar` -> `x-000.index`."""
    return shard.removesuffix(".tar") + ".index"


def _cache_path(shard: str) -> str:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = shard if is_remote(shard) else os.path.abspath(shard)
    stem = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return os.path.join(root, "vlp_jax", "index", stem + ".index")


def _lost(old: ShardIndex, new: ShardIndex, shard: str) -> list[Damage]:
    """Samples that an earlier index knew and a damaged shard no longer has."""
    if not new.damage:
        return []  # a whole archive that differs was replaced on purpose
    known = set(new.keys) | {d.where.rsplit(": ", 1)[-1].strip("'") for d in new.damage}
    return [Damage("missing", f"{shard}: {key!r}") for key in old.keys if key not in known]


def open_index(shard: str, rebuild: bool = False) -> tuple[ShardIndex, str | None]:
    """The index of a shard, built now when missing or stale, and the path it is stored at.

    It is stored beside the shard, else in the cache folder, else nowhere (None). Where an older
    index listed samples that the damaged shard has lost, they are counted as 'missing'. Raises
    OSError for the shard itself.
    """
    file = ShardFile(shard)
    places = [_cache_path(shard)] if is_remote(shard) else [index_path(shard), _cache_path(shard)]
    try:
        stored = [(load(place, shard), place) for place in places if os.path.exists(place)]
        stored = [(index, place) for index, place in stored if index is not None]
        checksum = probe(file)
        for index, place in stored:
            same = (index.size, index.probe, index.version) == (file.size, checksum, VERSION)
            if same and not rebuild:
                return index, place
        if stored and all(index.version < VERSION for index, _ in stored):
            tell("indices of tars made by an older version are built again: names with dots count")
        index = build(file)
    finally:
        file.close()
    if stored:
        index.damage += _lost(stored[0][0], index, shard)
        index.damage += [d for d in stored[0][0].damage if d.reason == "missing" and index.damage]
        index.damage = list(dict.fromkeys(index.damage))
    for place in places:
        try:
            os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
            save(index, place, shard)
            return index, place
        except OSError:
            continue
    return index, None

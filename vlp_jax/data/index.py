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
from dataclasses import dataclass

import numpy as np

from vlp_jax.data.damage import Damage
from vlp_jax.data.shard import ShardFile, is_remote
from vlp_jax.data.source import IMAGE_SUFFIXES
from vlp_jax.data.tar_walk import Member, Walk

VERSION = 1
ROLES = ("image", "txt", "json", "cls")
MAX_MEMBER = (
    64 * 2**20
)  # larger members are damage ('too_large'), so that a hostile tar cannot fill memory
_ROLE = {**dict.fromkeys(IMAGE_SUFFIXES, 0), "txt": 1, "json": 2, "cls": 3}
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)  # key and suffix as in WebDataset
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ARRAYS = {"offset": np.int64, "length": np.uint32, "crc": np.uint32}


@dataclass
class ShardIndex:
    """The listing of one tar; row i is sample i, columns are ROLES, a length of 0 and offset 0 is
    absent.

    keys: list[str]; offset: int64[N, 4]; length, crc: uint32[N, 4]; tokens: int32[N], words and
    punctuation of the caption; damage: what the pass met; size, probe: the file it was made from.
    """

    keys: list[str]
    offset: np.ndarray
    length: np.ndarray
    crc: np.ndarray
    tokens: np.ndarray
    damage: list[Damage]
    size: int
    probe: int

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


class _Builder:
    def __init__(self, file: ShardFile):
        self.file, self.rows, self.damage = file, {}, []
        self._duplicate = None

    def _content(self, member: Member, keep: bool) -> tuple[int, str]:
        crc, text, offset = 0, b"", member.offset
        while offset < member.offset + member.length:
            piece = self.file.read(offset, min(2**23, member.offset + member.length - offset))
            if not piece:
                break
            crc, offset = zlib.crc32(piece, crc), offset + len(piece)
            text = text + piece if keep and len(text) < 2**20 else text
        return crc, text.decode("utf-8", "replace")

    def add(self, member: Member) -> None:
        found = _NAME.fullmatch(member.name)
        if not found or found[1].rsplit("/", 1)[-1].startswith("__"):
            return
        key, suffix = found[1], found[2].lower()
        if suffix not in _ROLE:
            return
        role, where = _ROLE[suffix], f"{self.file.path}: {key!r}"
        row = self.rows.setdefault(key, {"names": set(), "tokens": 0})
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
        elif role not in row:
            crc, text = self._content(member, role == 1)
            row[role] = (member.offset, member.length, crc)
            row["tokens"] = count_tokens(text) if role == 1 else row["tokens"]

    def finish(self) -> ShardIndex:
        rows = self.rows
        for need, reason in (((0,), "no_image"), ((1, 2, 3), "no_caption")):
            lacking = {key for key, row in rows.items() if not any(role in row for role in need)}
            if len(lacking) < len(rows):
                self.damage += [
                    Damage(reason, f"{self.file.path}: {k!r}") for k in rows if k in lacking
                ]
                rows = {key: row for key, row in rows.items() if key not in lacking}
        table = [[row.get(role, (0, 0, 0)) for role in range(len(ROLES))] for row in rows.values()]
        table = np.asarray(table, np.int64).reshape(-1, len(ROLES), 3)
        columns = {
            n: np.ascontiguousarray(table[..., i].astype(t))
            for i, (n, t) in enumerate(_ARRAYS.items())
        }
        tokens = np.asarray([row["tokens"] for row in rows.values()], np.int32)
        return ShardIndex(
            list(rows),
            **columns,
            tokens=tokens,
            damage=self.damage,
            size=self.file.size,
            probe=probe(self.file),
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
    """Reads an index; None when it is missing, of another version or not readable as one."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            keys = arrays["keys"].tobytes().decode("utf-8", "surrogateescape")
            columns = {name: arrays[name].astype(dtype) for name, dtype in _ARRAYS.items()}
            tokens = arrays["tokens"]
        keys = keys.split("\0") if keys else []
        damage = [Damage(reason, shard + where) for reason, where in meta["damage"]]
        shape = (len(keys), len(ROLES))
        if meta["version"] != VERSION or any(c.shape != shape for c in columns.values()):
            return None
        index = ShardIndex(
            keys, **columns, tokens=tokens, damage=damage, size=meta["size"], probe=meta["probe"]
        )
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
            if not rebuild and (index.size, index.probe) == (file.size, checksum):
                return index, place
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

"""`SHARD.index`: what one pass over a tar learns, so that every later read is one `pread`.

A zip of plain NumPy arrays (no pickle) with key, member offsets, lengths and CRC-32, caption token
count, the damage met and a digest of it all. The file exists because random access makes shuffling,
resuming and counting losses exact, which streaming a tar cannot do.
"""

import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib

import numpy as np

from vlp_jax.data.damage import Damage
from vlp_jax.data.shard import ShardFile, is_remote
from vlp_jax.data.shard_index import ARRAYS, ROLES, VERSION, ShardIndex, probe
from vlp_jax.data.tar_members import build
from vlp_jax.data.walk import tell

_READABLE = (1, 2, VERSION)  # an older one is only asked what a damaged tar has lost


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
        "suffixes": index.suffixes,
        "damage": [[d.reason, d.where[prefix:]] for d in index.damage],
    }
    keys = "\0".join(index.keys).encode("utf-8", "surrogateescape")
    arrays = {name: getattr(index, name) for name in (*ARRAYS, "tokens", "picture", "further")}
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
            columns = {name: arrays[name].astype(dtype) for name, dtype in ARRAYS.items()}
            tokens = arrays["tokens"]
            new = [arrays[name] for name in ("picture", "further") if name in arrays]
        keys = keys.split("\0") if keys else []
        damage = [Damage(reason, shard + where) for reason, where in meta["damage"]]
        shape = (len(keys), len(ROLES))
        if meta["version"] not in _READABLE or any(c.shape != shape for c in columns.values()):
            return None
        index = ShardIndex(
            keys, **columns, tokens=tokens, damage=damage, size=meta["size"], probe=meta["probe"]
        )
        index.version, index.left_out = meta["version"], meta.get("left_out", {})
        if index.version == VERSION:
            index.suffixes, index.picture, index.further = meta["suffixes"], *new
            if not _whole(index):
                return None
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


def _whole(index: ShardIndex) -> bool:
    """Whether what the digest says nothing of is what ShardIndex says."""
    columns = ((index.picture, len(index.suffixes)), (index.further[0], len(index)))
    columns = (*columns, (index.further[1], len(index.suffixes)))
    counts = [*index.left_out.values(), index.size, index.probe]
    return (
        all(isinstance(count, int) for count in counts)
        and all(isinstance(suffix, str) for suffix in index.suffixes)
        and index.picture.shape == index.tokens.shape == (len(index),)
        and len(index.further) == 5
        and all(array.dtype.kind == "i" for array in (index.tokens, index.picture, index.further))
        and all((column >= 0).all() and (column < limit).all() for column, limit in columns)
    )


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


def _changed(path: str) -> int:
    """When a file was changed, in ns; 0 of what is remote."""
    return 0 if is_remote(path) else os.stat(path).st_mtime_ns


def open_index(shard: str, rebuild: bool = False) -> tuple[ShardIndex, str | None]:
    """The index of a shard, built now when missing or stale, and the path it is stored at.

    It is stored beside the shard, else in the cache folder, else nowhere (None), and bears the time
    of its shard: one that is older is stale, whatever its size and probe say. Where an older index
    listed samples that the damaged shard has lost, they are counted as 'missing'. Raises OSError
    for the shard itself.
    """
    file = ShardFile(shard)
    places = [_cache_path(shard)] if is_remote(shard) else [index_path(shard), _cache_path(shard)]
    try:
        changed = _changed(shard)
        stored = [(load(place, shard), place) for place in places if os.path.exists(place)]
        stored = [(index, place) for index, place in stored if index is not None]
        facts = (file.size, probe(file), VERSION)
        fits = {} if rebuild else {p: i for i, p in stored if (i.size, i.probe, i.version) == facts}
        for place, index in fits.items():
            if _changed(place) >= changed:
                return index, place
        if fits:
            tell("tars that are newer than their indices are walked again")
        elif stored and all(index.version < VERSION for index, _ in stored):
            tell("indices of tars made by an older version are built again: all members are listed")
        index = build(file)
    finally:
        file.close()
    known = next(iter(fits.values()), None)
    if known and (known.digest == index.digest or set(index.damage) - set(known.damage)):
        index = known  # touched only, or damaged since: it knows what was there
    elif stored:
        index.damage += _lost(stored[0][0], index, shard)
        index.damage += [d for d in stored[0][0].damage if d.reason == "missing" and index.damage]
        index.damage = list(dict.fromkeys(index.damage))
    for place in places:
        try:
            if fits.get(place) is not index:
                os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
                save(index, place, shard)
            if changed:
                os.utime(place, ns=(changed, changed))
            return index, place
        except OSError:
            continue
    return index, None

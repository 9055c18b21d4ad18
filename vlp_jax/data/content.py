"""What a picture is, whatever its name, place or container: CRC-32 and length of its file.

The file exists so that duplicates are known as such, and so that a hold-out, a sample of a data set
and the question whether a picture was trained on see neither file names nor order.
"""

import logging
import os
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.source import Source, digest

_log = logging.getLogger(__name__)
_CHUNK = 1024  # pictures that one call reads
_KEPT = 10_000  # pictures; what is known of smaller sets is not worth a file
_REPORT = 10.0  # seconds between two lines of progress


def identity(crc: Any, length: Any) -> np.ndarray:
    """uint64[...] of CRC-32 and length of encoded pictures; 0 is none."""
    return np.asarray(crc, np.uint64) << np.uint64(32) | np.asarray(length, np.uint64)


def contents(source: Source, rows: np.ndarray | None = None) -> np.ndarray:
    """`identity` of the pictures of samples int[n] `rows` (None: all): uint64[n], 0 where none can
    be read.

    Tars have it in their index. Other pictures are read once, undecoded; of large sets it is kept
    in the cache folder under the digest of the listing, so an edit that keeps name and size is not
    noticed.
    """
    rows = np.arange(len(source)) if rows is None else np.asarray(rows)
    own = getattr(source, "contents", None)  # tars, and what is made of other sources
    if own is not None:
        return own(rows)
    path = _path(source, rows)
    if len(rows) >= _KEPT:
        try:
            found = np.load(path, allow_pickle=False)
            if found.shape == rows.shape and found.dtype == np.uint64:
                return found
        except (OSError, ValueError, EOFError):
            pass
    found = _read(source, rows)
    if len(rows) >= _KEPT:
        _save(found, path)
    return found


def _content(source: Source, i: int) -> np.ndarray:
    try:
        data = source[i].get("image", b"")
    except DamagedSample:
        data = b""
    return identity(zlib.crc32(data), len(data))


def _read(source: Source, rows: np.ndarray) -> np.ndarray:
    found, shown = np.zeros(len(rows), np.uint64), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK].tolist()
            found[start : start + _CHUNK] = list(pool.map(lambda i: _content(source, i), some))
            if time.monotonic() - shown > _REPORT:
                shown = time.monotonic()
                share = 100 * (start + len(some)) / len(rows)
                _log.info("reading the checksums of %s pictures: %.0f %%", f"{len(rows):,}", share)
    return found


def _path(source: Source, rows: np.ndarray) -> str:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = digest([source.fingerprint, rows.astype(np.int64).tobytes()])
    return os.path.join(root, "vlp_jax", "content", name + ".npy")


def _save(found: np.ndarray, path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            np.save(file, found)
        os.replace(temporary, path)  # whole or not at all, whoever else reads
    except OSError as error:
        _log.warning("checksums of pictures are not kept: %s", error)

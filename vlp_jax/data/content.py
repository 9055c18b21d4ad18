"""What a picture is, whatever its name, place or container: CRC-32 and length of its file.

The file exists so that duplicates are known as such, and so that a hold-out, a sample of a data set
and the question whether a picture was trained on see neither file names nor order.
"""

import logging
import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vlp_jax.data import kept
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
    name = digest([source.fingerprint, rows.astype(np.int64).tobytes()])
    path = os.path.join(kept.folder("content"), f"{name}.npy")
    found = kept.read(path, len(rows), np.uint64) if len(rows) >= _KEPT else None
    if found is None:
        found = _read(source, rows)
        if len(rows) >= _KEPT:
            kept.save(found, path, "checksums of pictures")
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

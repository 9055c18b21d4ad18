"""Arrays that took long to find, kept in the user's cache folder under a digest of their subject.

The file exists so that caption lengths and pictures' checksums are kept by one rule: written whole
or not at all, never unpickled, and done without where the folder cannot be used.
"""

import logging
import os
import tempfile

import numpy as np

_log = logging.getLogger(__name__)


def folder(kind: str) -> str:
    """Where arrays of a kind are kept: below XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "vlp_jax", kind)


def read(path: str, count: int, dtype: type) -> np.ndarray | None:
    """The kept array dtype[count], memory-mapped; None where there is none of this form."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (count,) and found.dtype == dtype else None


def save(found: np.ndarray, path: str, what: str) -> None:
    """Keeps an array, or logs that `what` is not kept."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            np.save(file, found)
        os.replace(temporary, path)  # whole or not at all, whoever else reads
    except OSError as error:
        _log.warning("%s are not kept: %s", what, error)

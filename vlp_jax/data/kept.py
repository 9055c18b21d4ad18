"""Arrays that took long to find, kept in the user's cache folder under a digest of their subject.

The file exists so that caption lengths, pictures' checksums and their features are kept by one
rule: written whole or not at all, never unpickled, and done without where the folder cannot be
used.
"""

import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any

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
    _save(lambda file: np.save(file, found), path, what)


def read_several(path: str, facts: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Arrays that `save_several` kept with these facts; None where there are none, or others."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["facts"]) != _words(facts):
                return None
            return {name: file[name] for name in file if name != "facts"}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def save_several(
    arrays: Mapping[str, np.ndarray], path: str, facts: Mapping[str, Any], what: str
) -> None:
    """Keeps arrays by name with the facts, plain values of JSON, that they were made of, or logs
    that `what` are not kept."""
    _save(lambda file: np.savez(file, facts=_words(facts), **arrays), path, what)


def _words(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def _save(write: Callable[[IO[bytes]], None], path: str, what: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)  # whole or not at all, whoever else reads
    except OSError as error:
        _log.warning("%s are not kept: %s", what, error)

"""Shard names and positioned reads, local or remote.

The file exists so that no shard name ever reaches a shell, a brace range cannot expand without
bound, and every read is a `pread` at an offset, safe from many threads at once.
"""

import glob
import itertools
import os
import re
import threading

from vlp_jax.core.errors import UserError, nearest

MAX_SHARDS = 1_000_000
PREPARED = ("emoji_scenes", "fashion_mnist")  # what `data prepare NAME --out=DIR` writes
PROTOCOLS = ("file", "memory", "http", "https", "gs", "gcs", "s3", "az", "abfs", "hf")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def _choices(body: str, pattern: str) -> list[str]:
    found = _RANGE.fullmatch(body)
    if not found:
        if ".." in body:
            raise UserError(
                f"{pattern!r}: '{{{body}}}' is no range of whole numbers like {{0000..0012}}"
            )
        return body.split(",")
    first, last = found.groups()
    count = int(last) - int(first) + 1 if len(first) <= 18 and len(last) <= 18 else MAX_SHARDS + 1
    if not 1 <= count <= MAX_SHARDS:
        raise UserError(f"{pattern!r}: range {{{body}}} is empty or above {MAX_SHARDS:,} shards")
    width = len(first) if len(first) == len(last) or first.startswith("0") else 0
    return [str(i).zfill(width) for i in range(int(first), int(last) + 1)]


def expand_braces(pattern: str) -> list[str]:
    """All names of a pattern with `{0000..0012}` or `{a,b}`, in order; at most MAX_SHARDS.

    >>> expand_braces("x-{08..10}.tar")
    ['x-08.tar', 'x-09.tar', 'x-10.tar']
    """
    parts = _BRACES.split(pattern)  # literal, body, literal, body, ..., literal
    bodies = [_choices(body, pattern) for body in parts[1::2]]
    total = 1
    for body in bodies:
        total *= len(body)
        if total > MAX_SHARDS:
            raise UserError(f"{pattern!r}: expands to more than {MAX_SHARDS:,} shards")
    names = []
    for chosen in itertools.product(*bodies):
        names.append(
            "".join(itertools.chain.from_iterable(zip(parts[::2], [*chosen, ""], strict=True)))
        )
    return names


def is_remote(path: str) -> bool:
    """Whether `path` is a URL of an allowed protocol; raises UserError for any other protocol."""
    if "::" in path or path.startswith("pipe:"):
        raise UserError(f"{path!r}: chained and pipe: shard names are not supported")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    if found and found[1] not in PROTOCOLS:
        raise UserError(
            f"{path!r}: protocol {found[1]!r} is not supported" + nearest(found[1], PROTOCOLS)
        )
    return bool(found)


def matching(pattern: str, suffix: str = "") -> list[str]:
    """Files that a glob names, sorted; leading folders that exist as they are written are taken so,
    whatever brackets they hold."""
    head, rest = _literal(pattern)
    found = glob.glob(glob.escape(head) + rest)
    return sorted(m for m in found if m.lower().endswith(suffix) and os.path.isfile(m))


def _literal(pattern: str) -> tuple[str, str]:
    """The leading folders of a pattern that exist as they are written, and the rest."""
    head, rest = "", pattern
    while "/" in rest:
        part, _, after = rest.partition("/")
        if not os.path.isdir(f"{head}{part}/"):
            break
        head, rest = f"{head}{part}/", after
    return head, rest


def expand_shards(pattern: str) -> list[str]:
    """Shard paths of a tar pattern (braces, then globs, sorted); what exists as it is written is no
    pattern. Raises UserError when none exists."""
    if os.path.isfile(pattern):
        return [pattern]
    head, rest = _literal(pattern)
    shards = []
    for name in (head + name for name in expand_braces(rest)):
        if is_remote(name) or os.path.isfile(name):
            shards.append(name)
        else:
            matches = matching(name, ".tar")
            if not matches:
                of = f" (from {pattern!r})" if name != pattern else ""
                raise UserError(f"no such shard: {name!r}{of}{_how_made(name)}")
            shards += matches
    return list(dict.fromkeys(shards))


def _how_made(path: str) -> str:
    """What to append where the tars of a prepared set are missing."""
    folder, name = os.path.split(path)
    made = next((made for made in PREPARED if name.startswith(f"{made}-")), "")
    command = f"python -m vlp_jax data prepare {made} --out={folder or '.'}"
    return f"; `{command}` writes such" if made else ""


def _pread(handle: int, offset: int, length: int) -> bytes:
    data = os.pread(handle, length, offset)
    while len(data) < length and (more := os.pread(handle, length - len(data), offset + len(data))):
        data += more  # Linux returns at most 2 GiB at once
    return data


class ShardFile:
    """One file opened for positioned reads from any thread; picklable, reopened where it is
    unpickled."""

    def __init__(self, path: str):
        self.path = path
        self._remote = is_remote(path)
        self.transient = False  # open and close the file for every read
        self._lock, self._handle, self._size = threading.Lock(), None, None

    def __getstate__(self):
        return {"path": self.path, "transient": self.transient}

    def __setstate__(self, state):
        self.__init__(state["path"])
        self.transient = state["transient"]

    def _open(self):
        with self._lock:
            if self._handle is None:
                if self._remote:
                    import fsspec

                    self._handle = fsspec.core.url_to_fs(self.path)
                else:
                    self._handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        return self._handle

    @property
    def size(self) -> int:
        """Bytes in the file. Raises OSError when it cannot be opened."""
        if self._size is None:
            handle = self._open()
            self._size = (
                int(handle[0].size(handle[1])) if self._remote else os.fstat(handle).st_size
            )
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` (fewer only at the end of the file). Raises
        OSError."""
        if self.transient and not self._remote:
            with open(self.path, "rb") as file:
                return _pread(file.fileno(), offset, length)
        handle = self._open()
        if not self._remote:
            return _pread(handle, offset, length)
        filesystem, name = handle
        return filesystem.cat_file(name, start=offset, end=min(offset + length, self.size))

    def close(self) -> None:
        with self._lock:
            if self._handle is not None and not self._remote:
                os.close(self._handle)
            self._handle = None

    def __del__(self):
        if getattr(self, "_handle", None) is None or self._remote:
            return
        try:  # no contextlib: at the interpreter's end it and `os` may be gone already
            os.close(self._handle)
            self._handle = None
        except (TypeError, AttributeError):
            pass

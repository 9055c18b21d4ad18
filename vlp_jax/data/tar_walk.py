"""Walks the headers of a tar so that no damage is silent.

POSIX.1-2001 ustar and pax formats and GNU long names. The file exists because Python's streaming
tarfile ends quietly at the first bad or zeroed header and can lose most of a shard without an
error; here every such place is reported and the walk goes on at the next header whose checksum
holds.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vlp_jax.data.damage import Damage
from vlp_jax.data.shard import ShardFile

BLOCK = 512
ZERO = bytes(BLOCK)
_CHUNK = 8 * 2**20
_MAX_LONG = 64 * 1024  # pax headers and long names above this are damage, not names


class Member(NamedTuple):
    """A plain file inside a tar: its name and where its content lies."""

    name: str
    offset: int
    length: int


class _Window:
    """Sequential reader over a ShardFile that fetches large pieces."""

    def __init__(self, file: ShardFile):
        self.file, self.size, self._start, self._data = file, file.size, 0, b""

    def read(self, offset: int, length: int) -> bytes:
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._data):
            self._data = self.file.read(offset, max(length, _CHUNK)) if length < _CHUNK else b""
            self._start, begin = offset, 0
            if length >= _CHUNK:
                return self.file.read(offset, length)
        return self._data[begin : begin + length]


def _number(field: bytes) -> int:
    if field[:1] in (b"\x80", b"\xff"):  # GNU base-256 for sizes above 8 GiB
        return int.from_bytes(field, "big", signed=True) & ((1 << 88) - 1)
    text = field.strip(b" \0")
    return int(text, 8) if text else 0


def _valid(header: bytes) -> bool:
    """Whether the header's own checksum (unsigned or, in old archives, signed bytes) holds."""
    try:
        stored = _number(header[148:156])
        _number(header[124:136])
    except ValueError:
        return False
    blanked = header[:148] + b" " * 8 + header[156:]
    total = sum(blanked)
    return stored == total or stored == total - 256 * sum(b > 127 for b in blanked)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(data: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n` of a pax header. Raises ValueError when they do not add up."""
    records = {}
    while data.strip(b"\0"):
        count, _, rest = data.partition(b" ")
        length = int(count)
        record, end = (
            rest[: length - len(count) - 2],
            rest[length - len(count) - 2 : length - len(count) - 1],
        )
        if length <= len(count) + 2 or end != b"\n" or b"=" not in record:
            raise ValueError("pax record")
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records


def refused(name: str, kind: bytes) -> bool:
    """Whether a member is refused: not a plain file, or a name that is absolute or climbs with
    '..'."""
    parts = name.replace("\\", "/").split("/")
    return (
        kind not in (b"0", b"\0", b"7")
        or name.startswith(("/", "\\"))
        or ".." in parts
        or "\0" in name
    )


def find_header(window: _Window, offset: int) -> int | None:
    """Offset of the next block at or after `offset` that is a valid ustar header, or None."""
    while offset < window.size:
        data = window.read(offset, min(_CHUNK - BLOCK, window.size - offset))
        at = data.find(b"ustar", 257)
        while at >= 0:
            start = at - 257
            if (
                start % BLOCK == 0
                and start + BLOCK <= len(data)
                and _valid(data[start : start + BLOCK])
            ):
                return offset + start
            at = data.find(b"ustar", at + 1)
        offset += max(BLOCK, len(data) // BLOCK * BLOCK)
    return None


class Walk:
    """Iterates over the Members and Damages of one tar, in file order.

    Damage reasons: 'bad_header', 'zeroed_header', 'cut_header', 'cut_data', 'no_end_blocks',
    'refused_member'. `where` names the shard, the last good member and the byte.
    """

    def __init__(self, file: ShardFile):
        self._window, self._path, self._last = _Window(file), file.path, "the start"

    def _damage(self, reason: str, offset: int) -> Damage:
        return Damage(reason, f"{self._path}: after {self._last!r} at byte {offset}")

    def __iter__(self) -> Iterator[Member | Damage]:
        offset, extra, window = 0, {}, self._window
        while True:
            if offset + BLOCK > window.size:
                yield self._damage(
                    "cut_header" if offset < window.size else "no_end_blocks", offset
                )
                return
            header = window.read(offset, BLOCK)
            if header == ZERO:
                found, damage = self._after_zeros(offset)
                if damage:
                    yield damage
                if found is None:
                    return
                offset = found
                continue
            if not _valid(header):
                yield self._damage("bad_header", offset)
                offset, extra = find_header(window, offset + BLOCK), {}
                if offset is None:
                    return
                continue
            try:
                event, offset, extra = self._member(header, offset, extra)
            except ValueError:
                event, offset, extra = self._damage("bad_header", offset), offset + BLOCK, {}
            if event is not None:
                yield event
            if offset is None:
                return

    def _after_zeros(self, offset: int) -> tuple[int | None, Damage | None]:
        """What follows a zero block: the end of the archive (None) or, after damage, another
        header."""
        following = find_header(self._window, offset + BLOCK)
        if following is not None:
            return following, self._damage("zeroed_header", offset)
        position, rest = offset + BLOCK, b""
        while position < self._window.size and not rest.strip(b"\0"):
            rest = self._window.read(position, min(_CHUNK - BLOCK, self._window.size - position))
            position += len(rest)
        if rest.strip(b"\0"):
            return None, self._damage("zeroed_header", offset)
        if position - offset < 2 * BLOCK:
            return None, self._damage("no_end_blocks", offset)
        return None, None

    def _member(self, header: bytes, offset: int, extra: dict):
        """One valid header -> (event, offset of the next header, pax values for the next
        header)."""
        kind, length = header[156:157], _number(header[124:136])
        if kind not in (b"x", b"g", b"L", b"K") and "size" in extra:
            length = int(extra["size"])
        start = offset + BLOCK
        after = start + -(-length // BLOCK) * BLOCK
        if length < 0 or start + length > self._window.size:
            name = extra.get("path", _name(header))
            damage = Damage("cut_data", f"{self._path}: {name!r} at byte {offset}")
            return damage, find_header(self._window, start), {}
        if kind in (b"x", b"g", b"L", b"K"):
            if length > _MAX_LONG:
                raise ValueError("long name")
            data = self._window.read(start, length)
            if kind == b"x":
                extra = {**extra, **_pax(data)}
            elif kind == b"L":
                extra = {**extra, "path": _text(data)}
            return None, after, extra
        name = extra.get("path", _name(header))
        if kind == b"5" and not refused(name, b"0"):
            return None, after, {}
        if refused(name, kind) or any(key.startswith("GNU.sparse") for key in extra):
            return Damage("refused_member", f"{self._path}: {name!r}"), after, {}
        self._last = name
        return Member(name, start, length), after, {}

"""ArrayRecord files of samples.

Record: b"VLP1", uint32 little-endian length of a JSON object {"key", "text", "meta"}, the object,
the encoded picture. With further members b"VLP2", and the object has "sizes": {"": bytes of the
picture, SUFFIX: bytes of the member, ...} of what follows it. The file exists because ArrayRecord
is grain's native random-access format and checks every record.
"""

import itertools
import json
import os
import struct
from collections.abc import Iterable
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.shard import matching
from vlp_jax.data.source import Example, captions_of, digest, stamp_of

MAGIC = b"VLP1", b"VLP2"  # without further members, with them


def pack(example: Example) -> bytes:
    """One sample as a record."""
    head = {"key": example["key"], "text": example["text"], "meta": example["meta"]}
    files = {"": example.get("image", b""), **example.get("members", {})}
    if len(files) > 1:
        head["sizes"] = {name: len(data) for name, data in files.items()}
    data = json.dumps(head, ensure_ascii=False).encode("utf-8", "surrogatepass")
    magic = MAGIC["sizes" in head]
    return b"".join([magic, struct.pack("<I", len(data)), data, *files.values()])


def unpack(record: bytes) -> Example:
    """A record as a sample. Raises DamagedSample where it is none."""
    if record[:4] not in MAGIC or len(record) < 8:
        raise DamagedSample("bad_record")
    (length,) = struct.unpack("<I", record[4:8])
    try:
        example = json.loads(record[8 : 8 + length].decode("utf-8", "surrogatepass"))
        found = {
            "key": str(example["key"]),
            "text": captions_of(None, {"captions": list(example["text"])}),
            "meta": dict(example["meta"]),
        }
        files = _files(record[8 + length :], example.get("sizes"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedSample("bad_record") from error
    image = files.pop("")
    found = {**found, "members": files} if files else found
    return {**found, "image": image} if image else found


def _files(data: bytes, sizes: dict[str, int] | None) -> dict[str, bytes]:
    """The picture, under '', and the members. Raises ValueError where the sizes do not add up."""
    sizes = sizes or {"": len(data)}
    if sum(sizes.values()) != len(data) or min(sizes.values()) < 0:
        raise ValueError("sizes")
    ends = itertools.accumulate(sizes.values())
    return {n: data[end - size : end] for (n, size), end in zip(sizes.items(), ends, strict=True)}


def write_array_record(path: str, examples: Iterable[Example]) -> int:
    """Writes samples to an ArrayRecord file, one record per group for random access; returns how
    many."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(path, "group_size:1")
    count = 0
    try:
        for example in examples:
            writer.write(pack(example))
            count += 1
    finally:
        writer.close()
    return count


class ArrayRecordSource:
    """Records of a file, a glob or a folder of `*.array_record` files, in the order of names."""

    def __init__(self, path: str):
        pattern = os.path.join(path, "*.array_record*") if os.path.isdir(path) else path
        self.paths = [path] if os.path.isfile(path) else matching(pattern)
        if not self.paths:
            raise UserError(f"no such ArrayRecord file: {path!r}")
        if os.path.exists(os.path.join(os.path.dirname(self.paths[0]), "features.json")):
            folder = os.path.dirname(os.path.abspath(self.paths[0]))
            raise UserError(
                f"{path!r} belongs to a TFDS data set; open it as 'tfds:{folder}:train'"
            )
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        try:
            self._records: Any = ArrayRecordDataSource(self.paths)
        except Exception as error:  # the C++ reader raises several types
            raise UserError(f"{path!r} is no ArrayRecord file: {_first_line(error)}") from error
        if not len(self._records):
            raise UserError(f"no records in {path!r}")
        self.damage: list[Damage] = []
        self.fingerprint = digest(
            f"{os.path.basename(p)}\0{os.path.getsize(p)}" for p in self.paths
        )

    @property
    def stamp(self) -> str:
        """Changes with the files, of which the fingerprint knows only names and sizes."""
        return digest(map(stamp_of, self.paths))

    def __len__(self) -> int:
        return len(self._records)

    def where(self, i: int) -> str:
        place = self.paths[0] if len(self.paths) == 1 else os.path.dirname(self.paths[0])
        return f"{place}: record {i}"

    def metadata(self, i: int) -> Example:
        example = self[i]
        example.pop("image", None)
        return example

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        try:
            return unpack(self._records[i])
        except DamagedSample as damage:
            raise DamagedSample(damage.reason, self.where(i)) from damage
        except Exception as error:  # a failed checksum surfaces as one of several types
            raise DamagedSample("unreadable_record", self.where(i)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

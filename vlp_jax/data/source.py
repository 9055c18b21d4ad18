"""What a data source is, and how one is found from a path.

A source is a random-access list of examples. The file exists so that tars, folders, tables,
ArrayRecord files and TFDS sets look the same to the pipeline, the evaluators and the command line.
"""

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.encoding import BadText, check_text

_log = logging.getLogger(__name__)
# 'key': str, 'image': bytes (may be absent), 'text': list[str], 'meta': dict; some have 'members'
Example = dict[str, Any]
_SPREAD = 1000  # samples from all over a set, which nearly always have what is looked for
_MOST = 2**20  # samples looked at before a key or captions are called absent
# What pandas, NumPy, Python, JSON and SQL write where there is no value.
MISSING = frozenset({"", "nan", "NaN", "None", "null", "NULL", "<NA>"})
FOLDER_KINDS = ("captions", "classes", "pictures")  # prefixes of a folder's path
_INT32 = range(-(2**31), 2**31)
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".token", ".token.txt")


@runtime_checkable
class Source(Protocol):
    """Random access to examples; picklable, opens files lazily in every process.

    `fingerprint` digests the listing (keys, offsets, lengths), `damage` lists what the listing
    already knows to be lost; some have `notes`, lines on what was taken and what left out.
    `source[i]` raises DamagedSample; `metadata(i)` reads no picture. Where the fingerprint does not
    cover the captions, a `stamp` changes with them, and where it does not cover what the pictures
    hold, a `pictures_stamp`.
    """

    fingerprint: str
    damage: Sequence[Damage]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...

    def metadata(self, i: int) -> Example: ...

    def where(self, i: int) -> str: ...


class Members(Mapping):
    """The files of one sample by suffix (`seg.png`; in a table, by the column that names them),
    each read when it is asked for.

    Args:
      read: f(name) -> its content, None where there is none; raises DamagedSample.
      names: f() -> what there is beside the picture, the text and the JSON.
    """

    def __init__(self, read: Callable[[str], bytes | None], names: Callable[[], Iterable[str]]):
        self._read, self._names = read, names

    def __getitem__(self, name: str) -> bytes:
        data = self._read(name)
        if data is None:
            raise KeyError(name)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(list(self._names()))


def member(example: Example, name: str) -> bytes:
    """A further file of a sample. Raises DamagedSample('no_member')."""
    try:
        return example.get("members", {})[name]
    except KeyError as error:
        raise DamagedSample("no_member") from error


def texts_of(values: Any) -> list[str]:
    """The texts of a string or a list, stripped; blanks, what stands for a missing value ('nan',
    'None', 'null', ...) and what is no string left out. Raises DamagedSample('bad_text').
    """
    values = values if isinstance(values, list) else [values]
    try:
        found = [check_text(v).strip() for v in values if isinstance(v, str)]
    except BadText as error:
        raise DamagedSample("bad_text") from error
    return [text for text in found if text not in MISSING]


def captions_of(text: str | None, meta: dict[str, Any]) -> list[str]:
    """All captions of one sample: its `.txt` first, then JSON 'captions', else JSON 'caption'; each
    may be a text or a list. Raises DamagedSample as `texts_of`.

    >>> captions_of("a dog", {"captions": ["a dog", "a puppy"]})
    ['a dog', 'a puppy']
    """
    found = texts_of(text) + texts_of(meta.get("captions"))
    return list(dict.fromkeys(found or texts_of(meta.get("caption"))))


def label_value(value: Any) -> Any:
    """A label as it counts: a whole float is its integer, NaN is None, the rest stays."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else None if value != value else value


def label_of(example: Example, key: str, classes: Sequence[str | int] = ()) -> int:
    """The class number of a sample: the place of `meta[key]` among `classes`, or, without them, the
    integer itself. Raises DamagedSample: `no_label`, or `unknown_class` where it is not listed or
    no int32.
    """
    value = label_value(example["meta"].get(key))
    if isinstance(value, bool) or not isinstance(value, str | int if classes else int):
        raise DamagedSample("no_label")
    if value not in (classes or _INT32):
        raise DamagedSample("unknown_class")
    return classes.index(value) if classes else int(value)


def _looked_at(source: Source, what: str) -> Iterator[Example | None]:
    """Metadata (None where damaged) of up to 1,000 samples from all over a source, then of up to a
    million: what none of these has is in too few to learn from."""
    count = len(source)
    few = range(0, count, -(-count // _SPREAD) or 1)
    many = range(0, count, -(-count // _MOST) or 1) if len(few) < count else range(0)
    for number, index in enumerate(itertools.chain(few, many)):
        if number == len(few):
            _log.info("looking for %s in %s samples", what, f"{len(many):,}")
        try:
            yield source.metadata(index)
        except DamagedSample:
            yield None


def check_key(source: Source, key: str, flag: str) -> None:
    """Raises UserError, naming the flag and the nearest key, where no sample has the JSON key."""
    found: set[str] = set()
    for example in _looked_at(source, f"{flag}={key!r}"):
        found |= example["meta"].keys() if example else set()
        if key in found:
            return
    hint = nearest(key, found) or "; the sub-folders of a folder become 'label'"
    raise UserError(f"{flag}={key!r}: no sample has this JSON key{hint}")


def check_member(source: Source, name: str, flag: str) -> None:
    """Raises UserError, naming the flag and the nearest member, where no sample has the file."""
    found: set[str] = set()
    for example in _looked_at(source, f"{flag}={name!r}"):
        members = example.get("members", {}) if example else {}
        try:
            if name in members:
                return
        except DamagedSample:  # a table names it, and it is lost
            return
        found |= set(members) if len(found) < _SPREAD else set()
    raise UserError(f"{flag}={name!r}: no sample has such a file{nearest(name, found)}")


def captioned(source: Source) -> bool:
    """Whether any sample has a caption, or all are damaged, which is told elsewhere."""
    sound = False
    for example in _looked_at(source, "captions"):
        if example and example["text"]:
            return True
        sound = sound or example is not None
    return not sound


def check_captions(source: Source, path: str) -> None:
    """Raises UserError, naming the path, where no sample of a source has a caption."""
    if captioned(source):
        return
    usual = (
        "put NAME.txt beside each picture, in a tar too, or the pictures of a folder into one "
        "sub-folder per class"
    )
    raise UserError(f"no captions in {path!r}: {getattr(source, 'uncaptioned', usual)}")


def digest(parts: Iterable[str | bytes]) -> str:
    """Digest of a listing: 32 hex digits over length-prefixed parts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def pictures_stamp(source: Any) -> str:
    """Changes where a picture was changed, if its size stayed the same; '' where the fingerprint or
    the stamp covers that. A picture may be touched and the same: so it is asked by what keeps
    results of pictures, never by a training that goes on.
    """
    if own := getattr(source, "pictures_stamp", ""):
        return own
    inside = [source.whole] if hasattr(source, "whole") else getattr(source, "sources", [])
    found = list(map(pictures_stamp, inside))
    return digest(found) if any(found) else ""


def stamp_of(path: str) -> str:
    """Size and time of change of a file, '' where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"

"""Some samples of a data set, and which ones stand for the whole: by content, class by class.

The file exists because a stride over a data set in class order, or with the classes taking turns,
gives single classes: a sample must see neither names nor order.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.data.content import contents
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.order import mix64, permute
from vlp_jax.data.source import Example, Source, digest

LOOKED_AT = 2**16  # samples; of a larger set so many, drawn by position, are chosen from
_SAMPLE = 8  # key of this choice; order.py and mixture.py have the smaller ones


class Subset:
    """Samples int64[n] `rows` of a source, as a source. name: what reports call it."""

    def __init__(self, whole: Source, rows: np.ndarray, name: str = ""):
        self.whole, self.rows, self.name = whole, np.asarray(rows, np.int64), name
        self.damage = whole.damage
        self.fingerprint = digest([whole.fingerprint, self.rows.tobytes()])
        if hasattr(whole, "classes"):  # a folder's own
            self.classes = whole.classes

    @property
    def stamp(self) -> str:
        """Changes with the captions where the fingerprint of the whole does not cover them."""
        return getattr(self.whole, "stamp", "")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        return self.whole[int(self.rows[i])]

    def metadata(self, i: int) -> Example:
        return self.whole.metadata(int(self.rows[i]))

    def where(self, i: int) -> str:
        return self.whole.where(int(self.rows[i]))

    def contents(self, rows: np.ndarray) -> np.ndarray:
        """See `content.contents`."""
        return contents(self.whole, self.rows[rows])


def thinned(source: Source, count: int, label: str = "", cover: bool = False) -> Source:
    """`count` samples that stand for a source, with every class's share under the JSON key `label`
    ('': without classes). cover: at least one of each class, for what learns.

    The same pictures are chosen under any names and in any order. Of more than 65,536 samples, so
    many drawn by position are looked at.
    """
    total, looked = len(source), max(LOOKED_AT, count)
    rows = np.arange(total)
    if total > looked:
        rows = np.sort(permute(np.arange(looked), total, mix64(_SAMPLE)[0]).astype(np.int64))
    labels = [_value(source, int(i), label) for i in rows] if label else [None] * len(rows)
    return Subset(source, rows[stratified(labels, contents(source, rows), count, cover)])


def _value(source: Source, i: int, key: str) -> Any:
    try:
        return source.metadata(i)["meta"].get(key)
    except DamagedSample:
        return None


def stratified(
    labels: Sequence[Any], content: np.ndarray, count: int, cover: bool = False
) -> np.ndarray:
    """Rising positions int64[count], of every label its share, rounded at random.

    content: uint64[N], decides between samples of one label; equal ones go by position. The k-th of
    n samples of a label (in random order) stands at (k + u) / n with one random u a label, the
    `count` first are taken; `cover` puts the first of each label in front of all. All random
    numbers are hashes of the labels and the contents. Worked example: 6 of 'a' and 2 of 'b', count
    4: 3 and 1.
    """
    words = [str(value) for value in labels]
    names, ids = np.unique(np.asarray(words, dtype=object), return_inverse=True)
    drawn = mix64(_SAMPLE, content)
    order = np.lexsort((np.arange(len(ids)), drawn, ids))
    size = np.bincount(ids, minlength=len(names))
    rank = np.empty(len(ids))
    rank[order] = np.arange(len(ids)) - np.repeat(np.cumsum(size) - size, size)
    crc = [zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names]
    shift = mix64(_SAMPLE, np.asarray(crc, np.uint64)) / 2.0**64
    place = (rank + shift[ids]) / size[ids]
    if cover:
        place[rank == 0] = 0
    return np.sort(np.lexsort((np.arange(len(ids)), drawn, place))[:count])

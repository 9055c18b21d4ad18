"""One example of a data set as a row of an index: the model's view of its picture, what is known
about it, a thumbnail.

The file exists so that every kind of source gives the same columns.
"""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.core.strict_json import dumps
from vlp_jax.data.decode import shrink
from vlp_jax.data.source import Source

QUALITY = 85  # of thumbnails, as libjpeg counts


class Sample(NamedTuple):
    """picture: uint8[S, S, 3]; columns: {name: value}; thumbnail: a JPEG, b"" without."""

    picture: np.ndarray
    columns: dict[str, Any]
    thumbnail: bytes


def read_sample(source: Source, i: int, decode: Callable[[bytes], np.ndarray], side: int) -> Sample:
    """Reads example i. side: of the thumbnail, 0 for none.

    Columns: key, caption (the first), captions (all), path (of a file absolute), url (where the
    data has one), width and height of the upright picture, then the data's own. Raises
    DamagedSample.
    """
    example = source[i]
    data = example.get("image", b"")
    picture = decode(data)
    small, (width, height) = shrink(data, side or 64)
    texts = [clean(text) for text in example["text"]]
    columns: dict[str, Any] = {"key": clean(example["key"]), "caption": (texts or [None])[0]}
    path = example.get("path") or source.where(i)
    path = clean(os.path.abspath(path) if os.path.isfile(path) else path)
    columns |= {"captions": texts, "path": path, "width": width, "height": height}
    own = {clean(str(name)): _plain(value) for name, value in example["meta"].items()}
    return Sample(picture, {**own, **columns}, to_jpeg(small) if side else b"")


def to_jpeg(image: Any) -> bytes:
    """A Pillow picture as the bytes of a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def clean(text: str) -> str:
    """A text as UTF-8 can hold it: half characters become the replacement character."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _plain(value: Any) -> Any:
    """A number, text, switch or None; lists and mappings as JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(value if isinstance(value, str) else dumps(value, ensure_ascii=False))


def write_table(path: str, rows: Sequence[Mapping[str, Any]], arrow: Any, group: int) -> None:
    """Writes a Parquet file of rows, in groups of `group`; the columns that all share come first. A
    column of mixed types becomes text.
    """
    first = ("key", "caption", "captions", "path", "url", "width", "height")
    found = dict.fromkeys(name for row in rows for name in row)
    names = [*(n for n in first if n in found), *(n for n in found if n not in first)]
    columns = {name: _column([row.get(name) for row in rows], arrow) for name in names}
    if "captions" in columns and columns["captions"].type != arrow.list_(arrow.string()):
        columns["captions"] = columns["captions"].cast(arrow.list_(arrow.string()))
    arrow.parquet.write_table(arrow.table(columns), path, row_group_size=group, compression="zstd")


def _column(values: Sequence[Any], arrow: Any) -> Any:
    try:
        return arrow.array(values)
    except (arrow.ArrowException, OverflowError):
        texts = (v if v is None or isinstance(v, str) else json.dumps(v) for v in values)
        return arrow.array(list(texts), arrow.string())

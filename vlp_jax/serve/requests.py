"""What a client may ask: JSON bodies to checked values, or one line of refusal with its status.

Two shapes of a query come in: that of clip-retrieval's `/knn-service` (clip_retrieval/clip_back.py,
2.45), so that its client works unchanged, and that of our page, a weighted sum of texts, pictures,
rows of the index and vectors. The file exists so that hostile bodies end here, before any of them
costs time or memory.
"""

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax.core.errors import nearest

MAX_TEXT = 2_000  # characters; a context of 77 tokens ends after about 400
MAX_RESULTS = 10_000
MAX_DETAILED = 1_000  # results with metadata and picture
MAX_COMPARED = 3_000  # results of which each is compared with all others
MAX_PARTS = 16
MAX_WIDTH = 16_384
MAX_COMMAS, MAX_BRACKETS = 40_000, 2_000  # a picture in base64 holds neither
KINDS = ("text", "image", "url", "id", "vector")
MODALITIES = ("image", "text")


class Refused(Exception):
    """A request that is not served. status: of HTTP, 4xx; the message is one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Part:
    """One summand of a query.

    Attributes:
      kind: of KINDS. value: str, bytes of a picture's file, URL, row of the index, float32[E].
      weight: of its unit vector; below zero takes away.
    """

    kind: str
    value: Any
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
      parts: at least one; their weighted sum is the query.
      k: results. detailed: how many of them come with metadata and picture.
      modality: rows to search, `image` or `text`.
      deduplicate, safe: what is removed after the search.
      where: conditions on the metadata (serve/metadata.py).
      unit: divide the sum by its norm; clip-retrieval takes `embedding_input` as it is.
    """

    parts: tuple[Part, ...]
    k: int
    detailed: int
    modality: str = "image"
    deduplicate: bool = False
    safe: bool = False
    where: tuple[str, ...] = ()
    unit: bool = True


class Shape:
    """How much structure the pieces of a body have: a parser's time and memory grow with it."""

    commas = brackets = 0

    def add(self, piece: bytes) -> None:
        """Counts a piece. Raises Refused: more structure than any query."""
        self.commas += piece.count(b",")
        self.brackets += piece.count(b"[") + piece.count(b"{")
        if self.commas > MAX_COMMAS or self.brackets > MAX_BRACKETS:
            raise Refused(400, "body: more lists and values than a query has")


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refused: it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "body: not JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "body: must be a JSON object")
    return found


def knn_query(body: Mapping[str, Any], width: int) -> Query:
    """A body of `/knn-service`. width: E of the index. Raises Refused.

    As in clip-retrieval: the first of text, image, image_url, embedding_input that is there counts;
    removals are off unless asked for; scores of aesthetics are taken and change nothing, as on its
    server without their vectors.
    """
    for key in ("modality", "num_images", "indice_name"):
        if key not in body:
            raise Refused(400, f"{key}: is missing")
    if body.get("use_mclip"):
        raise Refused(400, "use_mclip: this index has one model; leave it out")
    images = whole(body, "num_images", 0, MAX_DETAILED)
    count = whole(body, "num_result_ids", 1, MAX_RESULTS, default=max(1, images))
    part = _knn_part(body, width)
    if count > MAX_COMPARED and switch(body, "deduplicate"):
        raise Refused(400, f"deduplicate: takes num_result_ids of at most {MAX_COMPARED:,}")
    return Query(
        parts=(part,),
        k=count,
        detailed=min(images, count),
        modality=choice(body, "modality", MODALITIES),
        deduplicate=switch(body, "deduplicate"),
        safe=switch(body, "use_safety_model"),
        unit=part.kind != "vector",
    )


def _knn_part(body: Mapping[str, Any], width: int) -> Part:
    if body.get("text") not in (None, ""):
        return Part("text", text(body["text"], "text"))
    if body.get("image") is not None:
        return Part("image", picture(body["image"], "image"))
    if body.get("image_url") is not None:
        return Part("url", text(body["image_url"], "image_url"))
    if body.get("embedding_input") is not None:
        return Part("vector", vector(body["embedding_input"], width, "embedding_input"))
    raise Refused(400, "one of text, image, image_url, embedding_input must be given")


def page_query(body: Mapping[str, Any], width: int, rows: int) -> Query:
    """A body of `/search`: {"query": [{KIND: value, "weight": 1}, ...], "k", "modality",
    "deduplicate", "safe", "where"}. Raises Refused.
    """
    known = ("query", "k", "modality", "deduplicate", "safe", "where")
    for key in body:
        if key not in known:
            raise Refused(400, f"{printed(key)}: unknown key{nearest(printed(key), known)}")
    count = whole(body, "k", 1, MAX_DETAILED, default=40)
    where = body.get("where") or []
    if not isinstance(where, list) or len(where) > MAX_PARTS:
        raise Refused(400, "where: must be a list of conditions like 'width>=64'")
    return Query(
        parts=parts(body.get("query"), width, rows),
        k=count,
        detailed=count,
        modality=choice(body, "modality", MODALITIES, "image"),
        deduplicate=switch(body, "deduplicate"),
        safe=switch(body, "safe"),
        where=tuple(text(item, f"where[{i}]") for i, item in enumerate(where)),
    )


def parts(value: Any, width: int, rows: int) -> tuple[Part, ...]:
    """The summands of a page's query. Raises Refused."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PARTS:
        raise Refused(400, f"query: must be a list of 1 to {MAX_PARTS} parts")
    return tuple(_part(item, f"query[{i}]", width, rows) for i, item in enumerate(value))


def _part(item: Any, name: str, width: int, rows: int) -> Part:
    kinds = [kind for kind in KINDS if isinstance(item, dict) and kind in item]
    if len(kinds) != 1:
        raise Refused(400, f"{name}: must hold one of {', '.join(KINDS)}")
    (kind,), weight = kinds, item.get("weight", 1.0)
    if not number(weight) or not 0 < abs(weight) <= 100:
        raise Refused(400, f"{name}.weight: must be a number from -100 to 100, not 0")
    value, name = item[kind], f"{name}.{kind}"
    if kind == "id":
        value = whole(item, "id", 0, rows - 1, name=name)
    elif kind == "vector":
        value = vector(value, width, name)
    else:
        value = picture(value, name) if kind == "image" else text(value, name)
    return Part(kind, value, float(weight))


def ids(body: Mapping[str, Any], rows: int) -> list[int]:
    """`ids` of a body of `/metadata`. Raises Refused."""
    found = body.get("ids")
    if not isinstance(found, list) or len(found) > MAX_DETAILED:
        raise Refused(400, f"ids: must be a list of at most {MAX_DETAILED} rows")
    for value in found:
        if type(value) is not int or not 0 <= value < rows:
            raise Refused(400, f"ids: {printed(value)}: no row; the index has 0 to {rows - 1}")
    return found


def text(value: Any, name: str) -> str:
    """A text without control characters and not too long. Raises Refused."""
    if not isinstance(value, str):
        raise Refused(400, f"{name}: must be a text")
    if len(value) > MAX_TEXT:
        raise Refused(400, f"{name}: {len(value):,} characters; at most {MAX_TEXT:,}")
    if not value.strip():
        raise Refused(400, f"{name}: is empty")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise Refused(400, f"{name}: holds a NUL or half of a character")
    return value


def picture(value: Any, name: str) -> bytes:
    """The file of a picture from base64, also behind `data:...,`. Raises Refused."""
    if not isinstance(value, str):
        raise Refused(400, f"{name}: must be a picture's file in base64")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{name}: not base64") from None
    if not data:
        raise Refused(400, f"{name}: is empty")
    return data


def vector(value: Any, width: int, name: str) -> np.ndarray:
    """float32[width], finite, of a norm that float32 can square. Raises Refused."""
    if not isinstance(value, list) or not all(number(item) for item in value[:MAX_WIDTH]):
        raise Refused(400, f"{name}: must be a list of finite numbers")
    if len(value) != width:
        raise Refused(400, f"{name}: {len(value)} numbers; this index has {width}")
    norm = math.hypot(*value)
    if not 1e-6 < norm < 1e6:
        raise Refused(400, f"{name}: its norm is {norm:.3g}; must be from 1e-6 to 1e6")
    return np.asarray(value, np.float32)


def whole(
    body: Mapping[str, Any], key: str, low: int, high: int, default: Any = None, name: str = ""
) -> int:
    """A whole number of a range. Raises Refused."""
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused(400, f"{name or key}: must be a whole number from {low:,} to {high:,}")
    return value


def choice(body: Mapping[str, Any], key: str, names: tuple[str, ...], default: str = "") -> str:
    """One of several names. Raises Refused."""
    value = body.get(key, default)
    if not isinstance(value, str) or value not in names:
        raise Refused(400, f"{key}: must be one of {', '.join(names)}")
    return value


def switch(body: Mapping[str, Any], key: str) -> bool:
    """True or false; absent and null are false. Raises Refused."""
    value = body.get(key)
    if value not in (None, True, False, 0, 1) or isinstance(value, float):
        raise Refused(400, f"{key}: must be true or false")
    return bool(value)


def number(value: Any) -> bool:
    """Whether it is a finite number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e38  # false for NaN too


def printed(value: Any) -> str:
    """What a client sent, short enough for a message."""
    found = str(value)
    return repr(found if len(found) <= 40 else found[:40] + "...")[1:-1]

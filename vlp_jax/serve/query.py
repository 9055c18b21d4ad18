"""`search`: words, pictures and vectors of a command line to rows of an index.

The file exists so that a sum of queries is asked in one line and looked at in one sheet.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.api.files import check_writable
from vlp_jax.api.model import Model, load_model
from vlp_jax.core.errors import UserError
from vlp_jax.data.decode import decode_image
from vlp_jax.parallel.startup import first_process, start_jax
from vlp_jax.serve.index import Index
from vlp_jax.serve.safety import FILE
from vlp_jax.serve.search import Options, Searcher, combine

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WEIGHTED = re.compile(rf"\s*([+-]?{_NUMBER})\s*\*\s*(\S.*)", re.DOTALL)
_NEARLY = re.compile(
    rf"\s*[+-]*\s*(?:{_NUMBER}|nan|inf|infinity)\s*\*.*", re.DOTALL | re.IGNORECASE
)
LEAST, MOST = 1e-6, 1e6  # of a weight, with either sign
MOST_DRAWN = 100  # pictures of a contact sheet


@dataclasses.dataclass(frozen=True)
class Query:
    """What `search` is asked for; each text, picture and vector may begin with `WEIGHT*`. A lone
    one need not stand in a list.

    Attributes:
      index: the folder; checkpoint: '' is the one that the index remembers.
      text, image, vector: words; files of pictures; .npy files of float[E].
      k: rows that are looked for, of which `options` leaves some.
      exact: not by faiss; sharding: of the model, see load_model.
      out: a folder for the contact sheet; '' draws none.
    """

    index: str
    text: Sequence[str] = ()
    image: Sequence[str] = ()
    vector: Sequence[str] = ()
    k: int = 20
    checkpoint: str = ""
    exact: bool = False
    sharding: str = ""
    out: str = ""
    options: Options = dataclasses.field(default_factory=Options)

    def __post_init__(self) -> None:
        for flag in ("text", "image", "vector"):
            given = getattr(self, flag)
            words = (given,) if isinstance(given, str | os.PathLike) else tuple(given)
            for word in words:
                if not isinstance(word, str | os.PathLike):
                    what = "a text" if flag == "text" else "a file"
                    raise UserError(f"{flag}: must be {what} or several, not {type(word).__name__}")
            object.__setattr__(self, flag, tuple(map(os.fspath, words)))

    def check(self) -> None:
        """Refuses what cannot work, before any work. Raises UserError."""
        if not (self.text or self.image or self.vector):
            what = "--text=WORDS, --image=FILE or --vector=FILE.npy"
            raise UserError(f"nothing to search for: give {what}, one or several")
        if type(self.k) is not int:
            raise UserError(f"--k={self.k}: must be a whole number")
        if self.k < 1:
            raise UserError(f"--k={self.k}: must be at least 1")
        if not 0 < self.options.alike <= 1:
            raise UserError(f"--threshold={self.options.alike}: must be above 0 and at most 1")
        for flag in ("text", "image", "vector"):
            for asked in getattr(self, flag):
                try:
                    _, file = split_weight(asked)
                except UserError as error:
                    raise UserError(f"--{flag}={error}") from None
                if flag != "text" and not os.path.isfile(file):
                    raise UserError(f"--{flag}: {file}: no such file")
        if self.out:
            check_writable("--out", self.out)


def search(query: Query) -> dict[str, Any]:
    """Returns {results: [{id, key, caption, score}]}, best first, and `out`, the contact sheet
    where one was asked for; in a job the first process alone.

    Raises:
      UserError: nothing asked, no such file or index, no picture, no model for a text or picture,
        a model of which the vectors are not.
    """
    query.check()
    start_jax()
    index = Index.open(query.index)
    index.side(query.options.modality)
    searcher = Searcher(index, _model(query, index), query.exact)
    hits, left = searcher.find_counted(vector_of(query, searcher), query.k, query.options)
    results = searcher.results(hits)
    if not first_process():
        return {}
    if query.k > index.rows:
        print(f"--k={query.k}: the index has no more than {index.rows} rows", file=sys.stderr)
    if query.options.deduplicate:
        print(f"near duplicates left out: {left['duplicates']}", file=sys.stderr)
    if query.options.safe:
        print(f"called unsafe and left out: {left['unsafe']}", file=sys.stderr)
        print(f"safe mode: {searcher.safety.told}", file=sys.stderr)
    return {"results": results, **({"out": _draw(query, index, results)} if query.out else {})}


def split_weight(text: str) -> tuple[float, str]:
    """`NUMBER*WORDS` as (weight, words), spaces about the star allowed; anything else is words of
    weight 1, also with a star in it.

    >>> split_weight("-0.5*people"), split_weight("1e1 * cat"), split_weight("a 5* hotel")
    ((-0.5, 'people'), (10.0, 'cat'), (1.0, 'a 5* hotel'))

    Raises:
      UserError: a weight that is none: zero, not finite, with two signs.
    """
    found = _WEIGHTED.fullmatch(text)
    weight = float(found[1]) if found else 0.0
    if found and LEAST <= abs(weight) <= MOST:
        return weight, found[2].strip()
    if found or (_NEARLY.fullmatch(text) and not text.rstrip().endswith("*")):
        limits = f"must be one number from {LEAST:g} to {MOST:g}, or below zero to take away"
        raise UserError(f"{text}: the weight before * {limits}")
    return 1.0, text


def vector_of(query: Query, searcher: Searcher) -> np.ndarray:
    """float32[E] of unit norm: the weighted sum of all that is asked.

    Raises:
      UserError: a picture or vector that is none, or a sum of which nothing remains.
    """
    asked = [split_weight(text) for text in query.text]
    rows = [searcher.encode(texts=[words for _, words in asked])] if asked else []
    for weight, path in map(split_weight, query.image):
        try:
            rows.append(searcher.encode(pictures=[path]))
        except UserError as error:
            said = str(error).removeprefix("pictures[0]: ").removeprefix(f"{path}: ")
            said = said.replace("_", " ")
            raise UserError(f"--image={path}: {said}") from error
        asked.append((weight, path))
    for weight, path in map(split_weight, query.vector):
        rows.append(_read_vector(path, searcher.index.width))
        asked.append((weight, path))
    found = combine(np.concatenate(rows), [weight for weight, _ in asked])
    if not found.any():
        raise UserError("the weighted sum of what is asked is zero; change a weight")
    return found


def _read_vector(path: str, width: int) -> np.ndarray:
    """float32[1, width] of unit norm, zeros stay. Raises UserError."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"--vector={path}: holds no vector") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        kind = getattr(found, "dtype", "several arrays")
        raise UserError(f"--vector={path}: must be real numbers, holds {kind}")
    if found.shape not in ((width,), (1, width)):
        raise UserError(f"--vector={path}: must be {width} numbers, has shape {list(found.shape)}")
    row = found.astype(np.float64).reshape(1, -1)
    if not np.isfinite(row).all():
        raise UserError(f"--vector={path}: holds numbers that are not finite")
    row /= np.abs(row).max() or 1.0  # else the squares of large and small ones are lost
    return (row / max(float(np.linalg.norm(row)), 1e-12)).astype(np.float32)


def _model(query: Query, index: Index) -> Model | None:
    """The model that is needed: the given one, else the one that the index remembers."""
    judged = query.options.safe and not os.path.exists(os.path.join(index.folder, FILE))
    if not (query.text or query.image or judged or query.checkpoint):
        return None
    return load_model(query.checkpoint or remembered(index), query.sharding)


def remembered(index: Index) -> str:
    """Where the checkpoint of an index lies: by its path, else by its place beside the index.

    Raises:
      UserError: at neither, or the index does not say.
    """
    said: Mapping[str, str] = index.manifest.get("checkpoint", {})
    beside = os.path.normpath(os.path.join(os.path.realpath(index.folder), said.get("beside", "")))
    found = next((p for p in (said.get("path", ""), beside) if said and os.path.isdir(p)), "")
    if not found:
        gone = f"its checkpoint {said['path']} is gone" if said else "it names no checkpoint"
        raise UserError(f"--index={index.folder}: {gone}; give --checkpoint=DIR")
    return found


def _draw(query: Query, index: Index, results: Sequence[Mapping[str, Any]]) -> str:
    from vlp_jax.report.found import found_sheet

    some = results[:MOST_DRAWN]
    data = [index.thumbnail(row["id"]) for row in some]
    pictures = [decode_image(one, 128, "pad") if one else None for one in data]
    captions = [row["caption"] or row["key"] for row in some]
    title = " + ".join((*query.text, *query.image, *query.vector))
    path = os.path.join(query.out, "found.png")
    return found_sheet(pictures, captions, [row["score"] for row in some], path, title)

"""`data.filters`: which pairs of a noisy alt-text corpus are trained on (ALIGN, arXiv:2102.05918
section 3.2).

Pictures are judged first: their size, how many texts they have, whether a test set has them. Then
texts: how many pictures share one, its words, how rare they are. A sample stays with the texts that
stay. The file exists so that the paper's few frequency rules are one option, with a count of what
each of them took.
"""

import dataclasses
import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Amount, Range, build
from vlp_jax.data.content import contents
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import FORMATS
from vlp_jax.data.open import open_source
from vlp_jax.data.source import Example, Source, digest
from vlp_jax.data.subset import Subset

_Whole = Annotated[int, Range(0)]


@dataclasses.dataclass(frozen=True)
class Filters:
    """The rules; 0 and () are off. ALIGN's own: see `ALIGN`.

    Attributes:
      side: pictures whose shorter side has so many pixels or fewer go.
      aspect: pictures whose longer side is so many times the shorter, or more, go.
      texts: pictures (by content) with more different texts go, with all their samples.
      exclude: data sets whose pictures (by content; copies that were encoded anew are not seen) go.
      pictures: texts of more different pictures go.
      words: (least, most) words of a text, split at white space.
      vocabulary: texts with a word, or two neighbours, that are not among so many most frequent of
        these (counted over all texts, in lower case; equally frequent ones by hash) go.
    """

    side: _Whole = 0
    aspect: Amount = 0.0
    texts: _Whole = 0
    exclude: tuple[str, ...] = ()
    pictures: _Whole = 0
    words: tuple[int, int] = (0, 0)
    vocabulary: _Whole = 0

    @property
    def on(self) -> bool:
        """Whether anything is judged."""
        return self != Filters()


ALIGN = Filters(200, 3.0, 1000, (), 10, (3, 20), 100_000_000)


def hashed(text: str) -> int:
    """64 bits that stand for a text."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def grams(text: str) -> list[str]:
    """Its words and neighbouring pairs in lower case: "a Dog" -> ["a", "dog", "a dog"]."""
    words = text.lower().split()
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


@dataclasses.dataclass(frozen=True, eq=False)
class TextRule:
    """Judges one text. shared: rising uint64 hashes of texts that go; known: of the words and pairs
    that may stand in one, None: all."""

    words: tuple[int, int]
    shared: np.ndarray
    known: np.ndarray | None

    def against(self, text: str) -> str:
        """Why a text goes, or ""."""
        if _holds(self.shared, hashed(text)):
            return "shared_text"
        count, (least, most) = len(text.split()), self.words
        if count < least:
            return "short_text"
        if most and count > most:
            return "long_text"
        if self.known is not None and not all(_holds(self.known, hashed(g)) for g in grams(text)):
            return "rare_word"
        return ""


def _holds(rising: np.ndarray, value: int) -> bool:
    at = np.searchsorted(rising, np.uint64(value))
    return bool(at < len(rising) and rising[at] == np.uint64(value))


class Filtered(Subset):
    """What the rules leave of a source. counts: {reason: samples or texts that it took}."""

    def __init__(self, whole: Source, rows: np.ndarray, rule: TextRule, counts: Mapping[str, int]):
        super().__init__(whole, rows)
        self.rule, self.counts = rule, dict(counts)
        known = b"" if rule.known is None else rule.known.tobytes()
        parts = [self.fingerprint, repr(rule.words), rule.shared.tobytes(), known]
        self.fingerprint = digest(parts)

    def __getitem__(self, i: int) -> Example:
        return self._judged(super().__getitem__(i))

    def metadata(self, i: int) -> Example:
        return self._judged(super().metadata(i))

    def _judged(self, example: Example) -> Example:
        texts = [text for text in example["text"] if not self.rule.against(text)]
        return {**example, "text": texts}


def apply_filters(source: Source, config: Mapping[str, Any]) -> Source:
    """What `data.filters` leave of a source, itself where none is on.

    Reads every caption, and where sizes are judged and the JSON does not say `original_width` and
    `original_height`, every picture's header. What cannot be read stays, to be counted as damage
    where it is met.

    Raises:
      UserError: an unknown key, or nothing is left.
    """
    filters = build(Filters, config, "data.filters")
    if not filters.on:
        return source
    counts: Counter = Counter()
    rows = _good_pictures(source, filters, counts)
    rule = _text_rule(source, rows, filters)
    kept = np.asarray([i for i in rows if _any_text(source, i, rule, counts)], np.int64)
    if not len(kept):
        raise UserError(f"data.filters leave nothing of {len(source)} samples: {shown(counts)}")
    whole, rows = (source.whole, source.rows[kept]) if type(source) is Subset else (source, kept)
    return Filtered(whole, rows, rule, counts)


def shown(counts: Mapping[str, int]) -> str:
    """Counts by reason in a line, the largest first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in Counter(counts).most_common())


def _good_pictures(source: Source, filters: Filters, counts: Counter) -> list[int]:
    """Samples whose pictures stay."""
    content = contents(source) if filters.texts or filters.exclude or filters.pictures else None
    many = _many(_pairs(source, range(len(source)), content), filters.texts)
    tests = _contents_of(filters.exclude)
    kept = []
    for i in range(len(source)):
        reason = _against_size(source, i, filters) if filters.side or filters.aspect else ""
        if content is not None and not reason and content[i]:
            reason = "many_texts" if _holds(many, content[i]) else ""
            reason = "test_picture" if _holds(tests, content[i]) else reason
        counts.update([reason] if reason else [])
        kept += [] if reason else [i]
    return kept


def _against_size(source: Source, i: int, filters: Filters) -> str:
    try:
        meta = source.metadata(i)["meta"]
        size = [meta.get(f"original_{side}") for side in ("width", "height")]
        if not all(isinstance(side, int) and side > 0 for side in size):
            data = source[i].get("image", b"")
            size = Image.open(io.BytesIO(data), formats=FORMATS).size
    except (DamagedSample, OSError, ValueError, Image.DecompressionBombError):
        return ""
    if min(size) <= filters.side:
        return "small_picture"
    return "long_picture" if filters.aspect and max(size) >= filters.aspect * min(size) else ""


def _contents_of(paths: Iterable[str]) -> np.ndarray:
    found = [contents(open_source(path)) for path in paths]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def _pairs(source: Source, rows: Iterable[int], content: np.ndarray | None) -> np.ndarray:
    """Different (picture, text) pairs as uint64[N, 2]; a picture that cannot be read is its own."""
    if content is None:
        return np.zeros((0, 2), np.uint64)
    found = [
        (int(content[i]) or hashed(f"row {i}"), hashed(text))
        for i in rows
        for text in _texts(source, i)
    ]
    return np.unique(np.asarray(found, np.uint64).reshape(-1, 2), axis=0)


def _many(pairs: np.ndarray, most: int, side: int = 0) -> np.ndarray:
    """Rising values of one side that stand in more than `most` pairs; none where that is 0."""
    values, number = np.unique(pairs[:, side], return_counts=True)
    return values[number > most] if most else values[:0]


def _text_rule(source: Source, rows: list[int], filters: Filters) -> TextRule:
    content = contents(source) if filters.pictures else None
    shared = _many(_pairs(source, rows, content), filters.pictures, side=1)
    known = None
    if filters.vocabulary:
        seen = Counter(hashed(g) for i in rows for text in _texts(source, i) for g in grams(text))
        if len(seen) > filters.vocabulary:
            first = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
            known = np.sort(np.asarray([h for h, _ in first[: filters.vocabulary]], np.uint64))
    return TextRule(tuple(filters.words), shared, known)


def _texts(source: Source, i: int) -> list[str]:
    try:
        return source.metadata(i)["text"]
    except DamagedSample:
        return []


def _any_text(source: Source, i: int, rule: TextRule, counts: Counter) -> bool:
    """Whether a sample keeps a text, or never had one; counts those that go."""
    texts = _texts(source, i)
    reasons = [rule.against(text) for text in texts]
    counts.update(reason for reason in reasons if reason)
    if texts and all(reasons):
        counts["no_text_left"] += 1
    return not texts or not all(reasons)

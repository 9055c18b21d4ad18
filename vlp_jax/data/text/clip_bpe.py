"""CLIP's byte-level BPE: 49,408 ids.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
section 2.4; merges of the public CLIP list (see `clip_merges.md`). The vocabulary follows from the
merges by rule: 256 bytes, the same at the end of a word, one id per merge, start and end. The file
exists because every released CLIP text tower means these ids; it works on ids instead of strings,
in O(n log n) for a word of any length.
"""

import gzip
import heapq
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

import regex

from vlp_jax.data.text.clean import clean_fn
from vlp_jax.data.text.tokenizer import Tokenizer

MERGES = 48_894
START, END = "<start_of_text>", "<end_of_text>"
_CACHED_WORDS, _CACHED_LENGTH = 2**17, 48
_WORDS = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+",
    regex.IGNORECASE,
)


def byte_symbols() -> list[str]:
    """The 256 characters that stand for bytes in the merge list, in id order.

    Printable Latin-1 stands for itself and comes first; the other bytes are the characters from 256
    on.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in shown] + [chr(256 + n) for n in range(256 - len(shown))]


def byte_ids() -> list[int]:
    """The id of every byte value, in order of the byte."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = shown + sorted(set(range(256)) - set(shown))
    return [order.index(b) for b in range(256)]


@lru_cache(maxsize=1)
def load_merges() -> tuple[dict[tuple[int, int], int], list[bytes], bytes]:
    """(id pair -> id of the merge, bytes of every id, the merge list's bytes).

    A merge of rank r has id 512 + r, so the smallest id is the merge to apply first.
    """
    content = gzip.decompress(
        resources.files(__package__).joinpath("clip_merges.txt.gz").read_bytes()
    )
    symbols = byte_symbols()
    spelled = symbols + [symbol + "</w>" for symbol in symbols]
    ids, pairs = {text: i for i, text in enumerate(spelled)}, {}
    values = dict(zip(byte_ids(), range(256), strict=True))
    pieces = [bytes([values[i % 256]]) for i in range(512)]
    for line in content.decode().splitlines():
        left, right = line.split(" ")
        pairs[ids[left], ids[right]] = ids[left + right] = len(pieces)
        pieces.append(pieces[ids[left]] + pieces[ids[right]])
    return pairs, pieces, content


def merge(ids: list[int], pairs: dict[tuple[int, int], int]) -> list[int]:
    """Applies merges to one word, earliest merge first and leftmost first, until none is left.

    Equals the reference's repeated passes because every id is made by one merge only, so a merge
    can never come before those that make its parts. Example: pairs {(0, 1): 512} turn [0, 1, 0, 1]
    into [512, 512].
    """
    ids, end = list(ids), len(ids)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))
    heap = [
        (new, i) for i in range(end - 1) if (new := pairs.get((ids[i], ids[i + 1]))) is not None
    ]
    heapq.heapify(heap)
    while heap:
        new, i = heapq.heappop(heap)
        j = after[i]
        if j >= end or pairs.get((ids[i], ids[j])) != new:  # one of the two was merged meanwhile
            continue
        ids[i], ids[j] = new, -1
        k = after[i] = after[j]
        if k < end:
            before[k] = i
        for left, right in ((before[i], i), (i, k)):
            if (
                left >= 0
                and right < end
                and (more := pairs.get((ids[left], ids[right]))) is not None
            ):
                heapq.heappush(heap, (more, left))
    return [i for i in ids if i >= 0]


class ClipTokenizer(Tokenizer):
    """`clip`: padding 0 (Stable Diffusion 1: the end's), start 49,406, end 49,407 (the largest id:
    argmax finds the first end)."""

    def __init__(
        self, name: str = "clip", context_length: int = 77, clean: str = "lower", pad_id: int = 0
    ):
        super().__init__(
            name, context_length, clean=clean, **({"pad_id": pad_id} if pad_id else {})
        )
        self._clean = clean_fn(clean)
        self._pairs, self._pieces, content = load_merges()
        self._bytes, self._cache = (
            byte_ids(),
            {START: [len(self._pieces)], END: [len(self._pieces) + 1]},
        )
        self.vocab_size, self.pad_id = len(self._pieces) + 2, pad_id
        self.prefix, self.suffix = (self.vocab_size - 2,), (self.vocab_size - 1,)
        self._seal(content)

    def _word(self, word: str) -> list[int]:
        found = self._cache.get(word)
        if found is None:
            ids = [self._bytes[b] for b in word.encode()]
            ids[-1] += 256  # the last byte carries the end of the word
            found = merge(ids, self._pairs)
            if len(self._cache) < _CACHED_WORDS and len(word) <= _CACHED_LENGTH:
                self._cache[word] = found
        return found

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of one text without start and end, those of open_clip's SimpleTokenizer.

        The words `<start_of_text>` and `<end_of_text>` become the special ids, as in the reference.
        """
        ids = []
        for match in _WORDS.finditer(self._clean(text)):
            ids += self._word(match.group())
            if limit is not None and len(ids) >= limit:
                break
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end; a space follows every word. Broken UTF-8 becomes U+FFFD."""
        data = bytearray()
        for i in self._body(ids):
            data += self._pieces[i] if i < len(self._pieces) else b""
            if i >= 256 and self._ends_word(i):
                data += b" "
        return data.decode("utf-8", "replace").rstrip(" ")

    def _ends_word(self, i: int) -> bool:
        return i in _enders()


@lru_cache(maxsize=1)
def _enders() -> frozenset[int]:
    """Ids that end a word: the second 256, and every merge whose right part does."""
    found = set(range(256, 512))
    for (_, right), new in load_merges()[0].items():  # in the order of rank
        if right in found:
            found.add(new)
    return frozenset(found)

"""A tokenizer with new words: each is one id after those that were there (textual inversion,
arXiv:2208.01618; as transformers adds tokens).

The file exists so that every tokenizer can get them.
"""

import re
from collections.abc import Sequence

from vlp_jax.core.errors import UserError
from vlp_jax.data.text.tokenizer import Tokenizer


def grouped(words: Sequence[str]) -> dict[str, list[int]]:
    """{word: numbers of its rows}.

    >>> grouped(["<cat>", "<cat>_1", "<dog>"])
    {'<cat>': [0, 1], '<dog>': [2]}
    """
    found: dict[str, list[int]] = {}
    last = ""
    for number, word in enumerate(words):
        if last and word == f"{last}_{len(found[last])}":
            found[last].append(number)
        else:
            last = word
            found[word] = [number]
    return found


def _is_known(inner: Tokenizer, word: str) -> bool:
    """Whether it is one id: texts with it would read otherwise. Letters may be: all are of some."""
    ids = inner.encode(word)
    return len(ids) == 1 < len(word) and inner.decode(ids).strip() == word


class Grown(Tokenizer):
    """`inner`, and the words NAME or NAME=WORDS of `new` as they are written, before any cleaning.

    A word of several rows is NAME, NAME_1, NAME_2, ... one after another; texts say NAME alone.
    starts: for each new word the ids of its WORDS, from whose rows its own starts; () without.
    """

    def __init__(self, inner: Tokenizer, new: Sequence[str]):
        """Raises UserError for an empty word, one twice, or one that is a word of `inner`."""
        options = {**inner.options, "new": tuple(new)}
        super().__init__(inner.name, inner.context_length, **options)
        pairs = [word.partition("=") for word in new]
        self.inner, self.words = inner, tuple(word for word, _, _ in pairs)
        for word in self.words:
            if not word.strip() or self.words.count(word) > 1:
                raise UserError(f"tokenizer_options.new: {word!r} is empty or there twice")
            if _is_known(inner, word):
                hint = f"take another, as '<{word}>'"
                raise UserError(f"tokenizer_options.new: {word!r} is a word already; {hint}")
        self.vocab_size = inner.vocab_size + len(self.words)
        self.pad_id, self.prefix, self.suffix = inner.pad_id, inner.prefix, inner.suffix
        self.starts = tuple(tuple(inner.encode(start)) if start else () for _, _, start in pairs)
        self._clean = inner._clean
        first = inner.vocab_size
        self._ids = {word: [first + n] for n, word in enumerate(self.words)}
        self._ids |= {word: [first + n for n in its] for word, its in grouped(self.words).items()}
        longest = sorted(map(re.escape, self.words), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(longest)})")
        self._among = inner.among(self.words)
        self._seal(inner.fingerprint.encode())

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of what stands between new words as `inner` gives them, and of these."""
        ids: list[int] = []
        if self._among:
            for one in self._among(text):
                ids += self._ids[one] if isinstance(one, str) else [one]
            return ids[:limit]
        for number, piece in enumerate(self._split.split(text)):
            if number % 2:
                ids += self._ids[piece]
            elif piece.strip():
                ids += self.inner.encode(piece, limit)
            if limit is not None and len(ids) >= limit:
                break
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids up to the first end, new words between spaces."""
        found: list[str] = []
        run: list[int] = []
        for i in [*self._body(ids), -1]:
            if 0 <= i < self.inner.vocab_size:
                run.append(i)
                continue
            found += [self.inner.decode(run).strip()] if run else []
            found += [self.words[i - self.inner.vocab_size]] if i >= 0 else []
            run = []
        return " ".join(found)

    def __reduce__(self) -> tuple:
        return Grown, (self.inner, self.options["new"])

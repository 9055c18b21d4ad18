"""What every tokenizer of the project is: text to a row of ids of fixed length.

Row layout of Radford et al. 2021 (CLIP): start, ids, end, padding; too long a row is cut and its
last id is the end. The file exists so that the rule is written once and holds for byte, BPE and
SentencePiece ids alike.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.text.clean import unchanged


class Tokenizer:
    """Base of all tokenizers. Sub-classes set the ids and define `encode` and `decode`.

    vocab_size: ids lie in [0, vocab_size). pad_id: fills the row after the end. sot_id: -1 where a
    row has no start. eot_id: the end. prefix, suffix: ids around the text (usually sot and eot).
    """

    vocab_size: int
    pad_id: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __init__(self, name: str, context_length: int, **options):
        self.name, self.context_length, self.options = name, int(context_length), options

    @property
    def sot_id(self) -> int:
        """Id of the start, -1 without one."""
        return self.prefix[0] if self.prefix else -1

    @property
    def eot_id(self) -> int:
        """Id of the end."""
        return self.suffix[-1]

    def id_for(self, token: str) -> int:
        """The id that a further special token has or would get."""
        del token
        return self.vocab_size

    def beyond(self, count: int) -> list[str]:
        """Tokens with ids from `count` on that texts can do without; []: none, or it needs them."""
        del count
        return []

    def among(self, words: Sequence[str]) -> Callable[[str], list[int | str]] | None:
        """f(text) -> its ids with `words` themselves where they stand; None: pieces between them
        are texts of their own."""
        del words

    _clean = staticmethod(unchanged)  # of a text, before it is cut

    def blank(self, text: str) -> bool:
        """Whether the cleaning leaves nothing of a text."""
        return not any(map(str.isalnum, text)) and not self._clean(text).strip()

    def _seal(self, content: bytes) -> None:
        """Checks the ids and sets `fingerprint`: 32 hex digits of content, ids and options."""
        edges = len(self.prefix) + len(self.suffix)
        if self.context_length <= edges:
            raise UserError(
                f"data.context_length={self.context_length}: tokenizer {self.name!r} "
                f"needs at least {edges + 1}"
            )
        ids = (self.context_length, self.vocab_size, self.pad_id, self.prefix, self.suffix)
        shown = f"{type(self).__name__} {ids} {sorted(self.options.items())} ".encode()
        self.fingerprint = hashlib.blake2b(shown + content, digest_size=16).hexdigest()

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of one text without start and end; may stop once it has `limit` of them."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids up to the first end; start and padding are dropped."""
        raise NotImplementedError

    def _body(self, ids: Sequence[int]) -> list[int]:
        """`ids` without the start and everything from the first end on."""
        found = [int(i) for i in ids]
        if self.prefix and tuple(found[: len(self.prefix)]) == self.prefix:
            found = found[len(self.prefix) :]
        return found[: found.index(self.eot_id)] if self.eot_id in found else found

    def __call__(self, texts: Sequence[str] | str) -> np.ndarray:
        """Rows of ids: int32[N, context_length]; too long a row is cut, its last id is the end."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = self._row(text)
            row[: len(ids)] = ids
        return rows

    def overlong(self, texts: Sequence[str], rows: np.ndarray) -> int:
        """How many of the texts do not fit into their rows int32[N, T], which calls give."""
        room = self.context_length - len(self.prefix) - len(self.suffix)
        full = [text for text, real in zip(texts, self.mask(rows)[:, -1], strict=True) if real]
        return sum(len(self.encode(text, room + 1)) > room for text in full)

    def mask(self, rows: np.ndarray) -> np.ndarray:
        """bool[N, T] of rows of ids int32[N, T] as calls give them: True up to a text's end. Worked
        example with padding 0: [7, 3, 0, 0] gives [1, 1, 0, 0].
        """
        real = rows != self.pad_id
        after = np.where(real.any(1), rows.shape[1] - np.argmax(real[:, ::-1], axis=1), 0)
        after += self.pad_id == self.eot_id  # the end itself looks like padding
        return np.arange(rows.shape[1]) < after[:, None]

    def _row(self, text: str) -> list[int]:
        room = self.context_length - len(self.prefix) - len(self.suffix)
        return [*self.prefix, *self.encode(text, room)[:room], *self.suffix]

    def length(self, text: str) -> int:
        """Ids of a text's row before the padding, start and end included; at most
        context_length."""
        return len(self._row(text))

    def __reduce__(self):  # worker processes load by name instead of receiving 49,408 entries
        return _reload, (type(self), self.name, self.context_length, self.options)


def _reload(kind, name, context_length, options):
    return kind(name, context_length, **options)

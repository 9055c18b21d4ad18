"""UTF-8 bytes as tokens: 259 ids, no vocabulary to load.

Byte-level models go back to Xue et al. 2022 (ByT5). The file exists so that small models need no
49,408-row embedding and tests no data. Ids: 0 padding, 1..256 the byte values 0..255, 257 start,
258 end. The end is the largest id, so that pooling at argmax over ids works as for CLIP.
"""

from collections.abc import Sequence

from vlp_jax.data.text.clean import clean_fn
from vlp_jax.data.text.tokenizer import Tokenizer


class ByteTokenizer(Tokenizer):
    """`bytes`: white space is collapsed, case kept. A character that is cut decodes to U+FFFD."""

    def __init__(self, name: str = "bytes", context_length: int = 77, clean: str = "whitespace"):
        super().__init__(name, context_length, clean=clean)
        self._clean = clean_fn(clean)
        self.vocab_size, self.pad_id, self.prefix, self.suffix = 259, 0, (257,), (258,)
        self._seal(b"")

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Byte values plus one. Lone surrogates, which have no UTF-8, become '?'."""
        data = self._clean(text).encode("utf-8", "replace")
        return [b + 1 for b in data[:limit]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end; broken UTF-8 becomes U+FFFD."""
        return bytes(i - 1 for i in self._body(ids) if 1 <= i <= 256).decode("utf-8", "replace")

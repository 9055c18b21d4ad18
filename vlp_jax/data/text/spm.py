"""SentencePiece models (`spm:FILE`), as used by T5 and SigLIP.

Kudo and Richardson 2018, "SentencePiece". The file exists so that text towers trained on `.model`
files can be fed; the library is an extra and imported only here. Rows have no start (the convention
of T5 and SigLIP) unless one is asked for (LLaMA), and end with the model's `</s>`.
"""

import os
from collections.abc import Sequence

from vlp_jax.core.errors import UserError
from vlp_jax.data.text.clean import clean_fn, well_formed
from vlp_jax.data.text.tokenizer import Tokenizer


def _load(path: str, name: str):
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            f"tokenizer {name!r} needs the sentencepiece package: pip install sentencepiece"
        ) from None
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"tokenizer {name!r}: {error.strerror}") from None
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content), content
    except RuntimeError:
        raise UserError(f"tokenizer {name!r}: {path} is no SentencePiece model") from None


class SpmTokenizer(Tokenizer):
    """`spm:FILE`. clean: see text.clean. pad_id: overrides the model's own padding id (else 0).
    start: rows begin with the model's `<s>`.

    SigLIP pads with the end: pad_id=1. Raises UserError naming the file.
    """

    def __init__(
        self,
        name: str,
        context_length: int = 77,
        clean: str = "whitespace",
        pad_id: int | None = None,
        start: bool = False,
    ):
        more = {"start": True} if start else {}
        super().__init__(name, context_length, clean=clean, pad_id=pad_id, **more)
        self._clean = clean_fn(clean)
        self._model, content = _load(os.path.expanduser(name.removeprefix("spm:")), name)
        if self._model.eos_id() < 0:
            raise UserError(f"tokenizer {name!r}: the model has no end token (</s>)")
        if start and self._model.bos_id() < 0:
            raise UserError(f"tokenizer {name!r}: the model has no start token (<s>)")
        self.prefix = (self._model.bos_id(),) if start else ()
        self.suffix = (self._model.eos_id(),)
        self.pad_id = pad_id if pad_id is not None else max(self._model.pad_id(), 0)
        self.vocab_size = self._model.vocab_size()
        if not 0 <= self.pad_id < self.vocab_size:
            raise UserError(
                f"tokenizer {name!r}: pad_id={pad_id} lies outside [0, {self.vocab_size})"
            )
        self._seal(content)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of one text without the end."""
        return self._model.encode(well_formed(self._clean(text)))[:limit]

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end."""
        return self._model.decode(self._body(ids))

"""Texts as arrays, by the tokenizers that a model came with.

The file exists so that a text is cut, counted and checked alike by whatever reads it.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError, count_of
from vlp_jax.core.fields import Field, Text
from vlp_jax.data.text.rows import text_rows
from vlp_jax.data.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


def open_tokenizer(
    path: str, name: str, spec: Mapping[str, Any] | None, fields: Mapping[str, Field]
) -> Tokenizer:
    """The tokenizer that fields know by a name.

    Args:
      path: of the model. spec: {name, context_length, options}. fields: whose ids it makes.

    Raises:
      UserError: there is none, or its ids exceed a field's vocabulary.
    """
    from vlp_jax.data.text import check_vocab, load_tokenizer

    if not spec or not spec["name"]:
        main = name == Text.tokenizer
        which = "; convert it again with --tokenizer=FILE" if main else f" {name!r}"
        raise UserError(f"{path}: carries no tokenizer{which}")
    options = dict(spec.get("options", {}))
    tokenizer = load_tokenizer(spec["name"], context_length=int(spec["context_length"]), **options)
    for field in fields.values():
        if isinstance(field, Text) and field.tokenizer == name:
            check_vocab(tokenizer, field.vocab_size)
    return tokenizer


class TextArrays:
    """See Model.text_arrays. cut: how many texts did not fit, until that was told."""

    def __init__(self, tokenizer: Any, field: Text, name: str):
        self._tokenizer, self._field, self._name, self.cut = tokenizer, field, name, 0

    @property
    def length(self) -> int:
        """Tokens of a text at most."""
        return self._tokenizer.context_length

    def __call__(self, texts: list[str]) -> dict[str, np.ndarray]:
        self.cut += self._tokenizer.overlong(texts, np.asarray(self._tokenizer(texts)))
        return text_rows(self._tokenizer, self._field, self._name, texts)

    def tell(self) -> None:
        """Logs how many were cut, where any was."""
        if self.cut:
            most = self._tokenizer.context_length
            _log.warning("%s cut at %d tokens, the model's most", count_of(self.cut, "text"), most)
        self.cut = 0

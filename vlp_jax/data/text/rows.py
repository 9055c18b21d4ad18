"""Texts as a field wants them: their first id another mark than the tokenizer's start, or open at
the end for what follows.

The file exists so that readers of data sets and commands make the same rows.
"""

from collections.abc import Sequence

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.data.text.tokenizer import Tokenizer


def text_rows(
    tokenizer: Tokenizer, field: Text, name: str, texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """{name: int32[N, T]}, with {name}_mask bool[N, T] where the field has one.

    Worked example: "a cat" of [CLS] a cat [SEP] is [ENC] a cat [SEP] for a field whose mark is
    [ENC], and [DEC] a cat for an open one whose mark is [DEC].

    Raises:
      UserError: an open field and a tokenizer that ends nothing.
    """
    ids = np.asarray(tokenizer(texts), np.int32)
    mask = tokenizer.mask(ids) if field.mask or field.open else None
    if field.mark >= 0:
        ids[:, 0] = field.mark
    if field.bare and (start := len(tokenizer.prefix)):
        ids = np.pad(ids[:, start:], ((0, 0), (0, start)), constant_values=tokenizer.pad_id)
        mask = None if mask is None else np.pad(mask[:, start:], ((0, 0), (0, start)))
    if field.open:
        if len(tokenizer.suffix) != 1:
            raise UserError(f"tokenizer {tokenizer.name!r}: ends texts with several ids")
        last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
        ids, mask = np.where(last, tokenizer.pad_id, ids).astype(np.int32), mask & ~last
    return {name: ids} | ({f"{name}_mask": mask} if field.mask else {})

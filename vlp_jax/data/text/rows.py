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
    [ENC], and [DEC] a cat for an open one whose mark is [DEC]. For a bare one it is a cat [SEP].

    Raises:
      UserError: an open field and a tokenizer that ends nothing.
    """
    ids = np.asarray(tokenizer(texts), np.int32)
    mask = tokenizer.mask(ids) if field.mask or field.open else np.zeros(ids.shape, bool)
    if field.mark >= 0:
        ids[:, 0] = field.mark
    if field.bare:
        ids, mask = _pad(ids, mask, 0, len(tokenizer.prefix), tokenizer.pad_id)
        ids, mask = ids[:, len(tokenizer.prefix) :], mask[:, len(tokenizer.prefix) :]
    if field.start and not tokenizer.prefix:
        ids, mask = _pad(ids, mask, 1, 0, tokenizer.pad_id)
    if field.open:
        if len(tokenizer.suffix) != 1:
            raise UserError(f"tokenizer {tokenizer.name!r}: ends texts with several ids")
        last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
        ids, mask = np.where(last, tokenizer.pad_id, ids).astype(np.int32), mask & ~last
    return {name: ids} | ({f"{name}_mask": mask} if field.mask else {})


def check_whole(tokenizer: Tokenizer, prompt: str, key: str = "prompt") -> None:
    """Raises UserError for a prompt that would be cut: what follows would go on from another text.
    key: names it."""
    if tokenizer.overlong([prompt], tokenizer([prompt])):
        shown = prompt if len(prompt) < 40 else f"{prompt[:36]}..."
        most = tokenizer.context_length
        raise UserError(f"{key}: {shown!r} is too long; the model reads {most} tokens")


def _pad(
    ids: np.ndarray, mask: np.ndarray, before: int, after: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """So many further columns, those in front real."""
    columns = (0, 0), (before, after)
    ids = np.pad(ids, columns, constant_values=pad_id)
    return ids, np.pad(mask, columns, constant_values=((False, False), (True, False)))

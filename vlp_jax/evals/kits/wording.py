"""Words into functions that read pictures and texts, and out of them: words as ids, ids as text.

The file exists as the one rule by which evaluators word a prompt, a question or a caption: a batch
gains the text that the function says it reads, and what comes back is read up to its length.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError, count_of
from vlp_jax.core.fields import Field, Text, told_too
from vlp_jax.core.types import HostBatch
from vlp_jax.data.text.rows import check_whole, text_rows
from vlp_jax.evals.base import EvalContext, EvalFn

_log = logging.getLogger(__name__)


def tokenizer_of(context: EvalContext) -> Any:
    """The run's tokenizer. Raises UserError where it has none that can decode."""
    if not hasattr(context.tokenizer, "decode"):
        raise UserError("this evaluation reads text, but the run has no tokenizer that decodes")
    return context.tokenizer


def check_prompt(prompt: str, key: str, context: EvalContext) -> None:
    """Raises UserError for one that would be cut, and as `tokenizer_of`. key: that says it."""
    tokenizer = tokenizer_of(context)
    if prompt:
        check_whole(context.tokenizers.get(ASKED[0], tokenizer), prompt, key)


ASKED = ("prompt", "text")  # by what a function is asked: the first of these that it reads


def text_field(context: EvalContext, reads: Mapping[str, Field]) -> tuple[str, Text]:
    """Name and field of the text by which a function is asked; of one that does not say what it
    reads `prompt`, the start and the text, without an end.

    Raises:
      UserError: it reads no such text.
    """
    if not reads:
        tokenizer = tokenizer_of(context)
        size = tokenizer.context_length, tokenizer.vocab_size
        return ASKED[0], Text(*size, mask=True, open=True)
    for name in ASKED:
        if isinstance(reads.get(name), Text):
            return name, reads[name]
    raise UserError(f"a function that reads {sorted(reads)} cannot be asked: none of {ASKED}")


def tell_cut(tokenizer: Any, texts: Sequence[str], name: str) -> None:
    """Logs how many of a function's texts do not fit, and are measured without their ends."""
    some = list(dict.fromkeys(texts))
    if cut := tokenizer.overlong(some, tokenizer(some)):
        most = tokenizer.context_length
        _log.warning("%s: %s cut at %d tokens", name, count_of(cut, "different text"), most)


def prompted(
    fn: EvalFn, texts: Sequence[str] | str, context: EvalContext, reads: Mapping[str, Field] = {}
) -> EvalFn:
    """`fn` with a text for every row of its batch: one for all ('' is none), or one for each sample
    of the data set; reads: its fields (Function.reads). Prompts have the columns of the longest, as
    what follows them needs places too.

    Raises:
      UserError: see `text_field`.
    """
    if not texts and ASKED[0] not in reads:
        return fn
    tokenizer, (name, field) = tokenizer_of(context), text_field(context, reads)
    asked = told_too(reads, name) | ({name: field} if texts else {})
    known = {other: context.tokenizers.get(other, tokenizer) for other in asked}
    every, columns = [texts] if isinstance(texts, str) else texts, {}
    for other, field in asked.items():
        tell_cut(known[other], every, other)
        if field.open and field.mask:
            mask = text_rows(known[other], field, other, every)[f"{other}_mask"]
            columns[other] = max(1, int(mask.sum(1).max()))

    def run(batch: HostBatch) -> Any:
        rows = batch["index"].tolist()
        mine = [texts if isinstance(texts, str) else texts[i] if i >= 0 else "" for i in rows]
        for other, field in asked.items():
            found = text_rows(known[other], field, other, mine).items()
            batch = {**batch, **{key: array[:, : columns.get(other)] for key, array in found}}
        return fn(batch)

    return run


def read_ids(rows: Mapping[str, np.ndarray], context: EvalContext) -> list[str]:
    """The first text of every row, in one line each.

    rows: what a function that writes gives, decoding/steps.py Written: ids int32[N, R, M] and
    length int32[N, R] among it.
    """
    decode: Callable[[Sequence[int]], str] = tokenizer_of(context).decode
    ids, lengths = rows["ids"][:, 0].tolist(), rows["length"][:, 0].tolist()
    return [" ".join(decode(row[:n]).split()) for row, n in zip(ids, lengths, strict=True)]

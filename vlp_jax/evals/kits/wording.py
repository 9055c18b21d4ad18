"""Words into functions that generate and out of them: prompts as ids, ids as text.

The file exists as the one rule by which evaluators word a prompt: a batch gains `prompt` int32[b,
L] and `prompt_mask` bool[b, L], and what comes back is read up to its length.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.core.types import HostBatch
from vlp_jax.data.text.rows import text_rows
from vlp_jax.evals.base import EvalContext, EvalFn


def tokenizer_of(context: EvalContext) -> Any:
    """The run's tokenizer. Raises UserError where it has none that can decode."""
    if not hasattr(context.tokenizer, "decode"):
        raise UserError("this evaluation reads text, but the run has no tokenizer that decodes")
    return context.tokenizer


def prompted(fn: EvalFn, texts: Sequence[str] | str, context: EvalContext) -> EvalFn:
    """`fn` with a prompt for every row of its batch: one for all ('' is none), or one for each
    sample of the data set.
    """
    if not texts:
        return fn
    tokenizer = tokenizer_of(context)
    size = tokenizer.context_length, tokenizer.vocab_size
    field = Text(*size, mask=True, open=True)  # the start and the text, without an end

    def run(batch: HostBatch) -> Any:
        rows = batch["index"].tolist()
        mine = [texts if isinstance(texts, str) else texts[i] if i >= 0 else "" for i in rows]
        return fn({**batch, **text_rows(tokenizer, field, "prompt", mine)})

    return run


def read_ids(rows: Mapping[str, np.ndarray], context: EvalContext) -> list[str]:
    """The first text of every row, in one line each.

    rows: what a function that writes gives, decoding/steps.py Written: ids int32[N, R, M] and
    length int32[N, R] among it.
    """
    decode: Callable[[Sequence[int]], str] = tokenizer_of(context).decode
    ids, lengths = rows["ids"][:, 0].tolist(), rows["length"][:, 0].tolist()
    return [" ".join(decode(row[:n]).split()) for row, n in zip(ids, lengths, strict=True)]

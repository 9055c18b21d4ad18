"""The nearest of every query once more, by a head that sees picture and text together (BLIP,
arXiv:2201.12086, section 5.1; reference: salesforce/BLIP train_retrieval.py).

The file exists so that the states of a picture are computed once for all texts that it meets, and
never those of all pictures at a time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vlp_jax.core.fields import Field, Numbers
from vlp_jax.core.types import HostBatch
from vlp_jax.data.source import Source
from vlp_jax.data.subset import Subset
from vlp_jax.data.text.rows import text_rows
from vlp_jax.evals.base import EvalContext, EvalFn, embed_all
from vlp_jax.evals.kits.ranking import nearest_neighbours
from vlp_jax.evals.kits.samples import embed_pictures
from vlp_jax.evals.kits.wording import text_field, tokenizer_of

REQUIRES = ("image_states", "rematch")
STATES = 2**28  # bytes of the states that are held at a time


class Few(NamedTuple):
    """The candidates of Q queries that were scored again.

    ids: int32[Q, k]. score: float32[Q, k], cosine + logit of `match`.
    """

    ids: np.ndarray
    score: np.ndarray


def rerank(
    fns: Mapping[str, EvalFn],
    pictures: Source,
    texts: Sequence[str],
    rows: tuple[np.ndarray, np.ndarray],
    count: int,
    context: EvalContext,
    reads: Mapping[str, Mapping[str, Field]],
) -> tuple[Few, Few]:
    """The `count` nearest texts of every picture and pictures of every text, by cosine + logit.

    Args:
      fns: image_states {image} -> float32[B, S, D], and rematch {image_states, text} -> float32[B,
        2] logits, the second of `match`.
      pictures: a set of N that can all be read.
      rows: their vectors float32[N, E] and those of the U texts float32[U, E], of unit norm.
      reads: {function: its fields}.
    """
    image, text = rows
    near = nearest_neighbours(image, text, count), nearest_neighbours(text, image, count)
    (cos_i, texts_of), (cos_t, pictures_of) = near
    of_i = np.arange(len(image))[:, None] * len(text) + texts_of
    of_t = pictures_of.astype(np.int64) * len(text) + np.arange(len(text))[:, None]
    pairs = np.unique(np.concatenate([of_i.ravel(), of_t.ravel()]))
    name, field = text_field(context, reads.get("rematch", {}))
    ids = text_rows(tokenizer_of(context), field, name, texts)
    logits = np.empty(len(pairs), np.float32)
    for part, states in _states(fns["image_states"], pictures, context, reads):
        first, last = np.searchsorted(pairs, [part[0] * len(text), (part[-1] + 1) * len(text)])
        picture, words = np.divmod(pairs[first:last], len(text))
        beside = {array: (all_ids, words) for array, all_ids in ids.items()}
        beside["image_states"] = states, picture - part[0]
        batches = pair_batches(beside, last - first, context)
        logits[first:last] = embed_all(fns["rematch"], batches, last - first)[:, 1]
    of = lambda keys: logits[np.searchsorted(pairs, keys)]  # noqa: E731
    return Few(texts_of, cos_i + of(of_i)), Few(pictures_of, cos_t + of(of_t))


def _states(
    fn: EvalFn, pictures: Source, context: EvalContext, reads: Mapping[str, Mapping[str, Field]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers of some pictures, their states), in order."""
    field = reads.get("rematch", {}).get("image_states")
    size = 4 * math.prod(field.shape) if isinstance(field, Numbers) else STATES
    most = context.batch_size * max(1, STATES // size // context.batch_size)
    for start in range(0, len(pictures), most):
        part = np.arange(start, min(start + most, len(pictures)))
        states, _ = embed_pictures(fn, Subset(pictures, part), context)
        yield part, states


def pair_batches(
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]], count: int, context: EvalContext
) -> Iterator[HostBatch]:
    """Host-local padded batches of `count` pairs, in order.

    arrays: {name: (rows [M, ...], int[count], the row of each pair)}. Worked example: 5 pairs,
    batch_size 4, 2 hosts: host 1 gets index [2, 3], then [-1, -1].
    """
    local = context.batch_size // context.process_count
    for start in range(0, count, context.batch_size):
        at = start + context.process_index * local + np.arange(local)
        index = np.where(at < count, at, -1).astype(np.int32)
        some = np.maximum(index, 0)
        yield {name: rows[which[some]] for name, (rows, which) in arrays.items()} | {"index": index}

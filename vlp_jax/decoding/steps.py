"""What every way of writing shares: the model as a step, where a text begins, what came out, and
what is done to scores before a token is chosen.

The file exists so that greedy, drawn and beam texts obey the same limits in the same order (that of
transformers' processors: repetition, least length, temperature, top k, top p).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing

NEVER = -1e9  # score of what is out of the running, as in transformers


class Model(NamedTuple):
    """A language model.

    step: f(ids int32[N, 1], cache) -> (logits float32[N, V] of the next token, cache).
    take: f(cache, rows int32[N']) -> the cache of these rows.
    """

    step: Callable[[Array, Any], tuple[Array, Any]]
    take: Callable[[Any, Array], Any]


class Start(NamedTuple):
    """Where texts begin, the prompt read.

    logits: float[B, V] of the first new token. cache: with room for max_new more tokens.
    prompt: int32[B, P] with mask bool[B, P], what a repetition penalty counts as said.
    """

    logits: Array
    cache: Any
    prompt: Array
    mask: Array


class Written(NamedTuple):
    """New texts, R of each row.

    ids: int32[B, R, max_new], 0 from the stop id on. length: int32[B, R], tokens before it.
    score: float32[B, R], see Writing.length_penalty.
    """

    ids: Array
    length: Array
    score: Array


def said(start: Start, how: Writing) -> Array | None:
    """bool[B, V]: which tokens the prompt holds; None where nobody asks."""
    if how.repetition_penalty is None:
        return None
    rows = jnp.arange(len(start.prompt))[:, None]
    return jnp.zeros(start.logits.shape, bool).at[rows, start.prompt].max(start.mask)


def also_said(seen: Array | None, tokens: Array) -> Array | None:
    """`said` with one more token per row, int32[N]."""
    return seen if seen is None else seen.at[jnp.arange(len(tokens)), tokens].set(True)


def is_stop(tokens: Array, stop: tuple[int, ...]) -> Array:
    """Whether tokens end a text. int32[...] -> bool[...]"""
    return jnp.isin(tokens, jnp.array(stop, jnp.int32))


def limited(
    scores: Array, number: Array | int, seen: Array | None, how: Writing, stop: tuple[int, ...]
) -> Array:
    """Scores under the repetition penalty and the least length.

    scores: float32[N, V], logits or log-probabilities. number: new tokens so far.
    """
    if seen is not None:
        penalty = how.repetition_penalty
        scores = jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)
    if how.min_new and stop:
        ends = is_stop(jnp.arange(scores.shape[-1]), stop)
        scores = jnp.where((number < how.min_new) & ends, -jnp.inf, scores)
    return scores


def warped(scores: Array, how: Writing) -> Array:
    """Logits that are drawn from: -inf where a token is left out. float32[N, V] -> float32[N, V]"""
    if how.temperature is not None:
        scores = scores / how.temperature
    if how.top_k:
        least = jax.lax.top_k(scores, min(how.top_k, scores.shape[-1]))[0][:, -1:]
        scores = jnp.where(scores < least, -jnp.inf, scores)
    if how.top_p is None:
        return scores
    order = jnp.argsort(scores, axis=-1)  # rising
    share = jnp.take_along_axis(jax.nn.softmax(scores), order, axis=-1).cumsum(-1)
    out = (share <= 1 - how.top_p).at[:, -1].set(False)  # the likeliest always stays
    rows = jnp.arange(len(scores))[:, None]
    return jnp.where(jnp.zeros_like(out).at[rows, order].set(out), -jnp.inf, scores)

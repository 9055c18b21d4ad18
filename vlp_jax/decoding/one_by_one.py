"""One token after the other: the likeliest (greedy), or drawn (nucleus sampling, arXiv:1904.09751).

Each row draws with its own key, so its text does not depend on the batch. The file exists as the
loop without beams.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.steps import (
    Model,
    Start,
    Written,
    also_said,
    is_stop,
    limited,
    said,
    warped,
)


class _Texts(NamedTuple):
    """So far; token: int32[N], the last one of each."""

    number: Array
    token: Array
    ids: Array
    done: Array
    total: Array
    tokens: Array
    seen: Array | None
    cache: Any


def write(model: Model, start: Start, how: Writing, stop: tuple[int, ...], rng: Array) -> Written:
    """Texts of at most how.max_new tokens.

    rng: key[B]; of a row's several texts each has a key of its own.
    """
    count, copies = len(start.logits), how.returned
    if copies > 1:
        rows = jnp.repeat(jnp.arange(count), copies)
        cache = model.take(start.cache, rows)
        start = Start(start.logits[rows], cache, start.prompt[rows], start.mask[rows])
        rng = jax.vmap(lambda key: jax.random.split(key, copies))(rng).reshape(-1)

    def noise(number: Array, shape: tuple[int, ...]) -> Array:
        draw = lambda key: jax.random.gumbel(jax.random.fold_in(key, number), shape)  # noqa: E731
        return jax.vmap(draw)(rng)

    def choose(texts: _Texts, logits: Array) -> _Texts:
        number = texts.number
        logits = logits.astype(jnp.float32)
        scores = limited(logits, number, texts.seen, how, stop)
        if how.draws:
            token = (warped(scores, how) + noise(number, scores.shape[1:])).argmax(-1)
        else:
            token = scores.argmax(-1)
        gain = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        ends = is_stop(token, stop) if stop else jnp.zeros_like(texts.done)
        shown = jnp.where(texts.done | ends, 0, token)
        return texts._replace(
            number=number + 1,
            token=token.astype(jnp.int32),
            ids=texts.ids.at[:, number].set(shown),
            done=texts.done | ends,
            total=texts.total + jnp.where(texts.done, 0, gain),
            tokens=texts.tokens + ~texts.done,
            seen=also_said(texts.seen, token),
        )

    def advance(texts: _Texts) -> _Texts:
        logits, cache = model.step(texts.token[:, None], texts.cache)
        return choose(texts._replace(cache=cache), logits)

    rows = len(start.logits)
    empty = _Texts(
        number=jnp.int32(0),
        token=jnp.zeros(rows, jnp.int32),
        ids=jnp.zeros((rows, how.max_new), jnp.int32),
        done=jnp.zeros(rows, bool),
        total=jnp.zeros(rows),
        tokens=jnp.zeros(rows, jnp.int32),
        seen=said(start, how),
        cache=start.cache,
    )
    going = lambda texts: (texts.number < how.max_new) & ~texts.done.all()  # noqa: E731
    texts = jax.lax.while_loop(going, advance, choose(empty, start.logits))
    score = texts.total / texts.tokens.astype(jnp.float32) ** how.length_penalty
    length = texts.tokens - texts.done
    shape = (count, copies)
    return Written(texts.ids.reshape(*shape, -1), length.reshape(shape), score.reshape(shape))

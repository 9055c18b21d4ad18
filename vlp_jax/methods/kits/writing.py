"""Texts that a part writes or scores beside states: the prompt read into a cache, then decoding/.

The file exists so that captions and answers, and every later language model, are written and scored
by one piece of code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from vlp_jax.core.inputs import Inputs
from vlp_jax.core.types import Array
from vlp_jax.decoding.generate import generate
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring, score
from vlp_jax.decoding.steps import Model, Start, Written
from vlp_jax.models.med import MED
from vlp_jax.models.qformer import QFormer
from vlp_jax.nn.cache import Cache, Context, States, take_rows
from vlp_jax.nn.layers import apart, together

Step = Callable[[Array, Cache], tuple[Array, Cache]]  # ids int32[N, T] -> logits float32[N, T, V]


class Speaker(Protocol):
    """A part of a method at hand that goes on a text."""

    def begin(self, prompt: Array, mask: Array, room: int) -> tuple[Cache, Array, Any]:
        """Reads a prompt, int32[B, P], padded on the right with mask bool[B, P].

        Returns (a cache with room for so many tokens more, logits float32[B, P, V], what else every
        step looks at).
        """

    def reader(self, context: Any, copies: int = 0) -> Step:
        """Reads further tokens; copies: of each row, in a loop of single ones (0: none of it)."""


class Writer(NamedTuple):
    """A MED that looks at states.

    run: Method.apply of the part, its first three arguments given. net: the MED, whose decoder
    writes. states: what it looks at.
    """

    run: Callable[..., Any]
    net: MED
    states: States

    def begin(self, prompt: Array, mask: Array, room: int) -> tuple[Cache, Array, Context]:
        """See Speaker."""
        context = self.run(None, None, self.states, mode="look")
        cache = self.net.empty_cache(len(prompt), prompt.shape[1] + room)
        _, out = self.run(prompt, mask, context, cache, mode="decode")
        return out["cache"], out["logits"], context

    def reader(self, context: Context, copies: int = 0) -> Step:
        """See Speaker."""
        if copies:
            context = take_rows(context, jnp.repeat(jnp.arange(context.key.shape[1]), copies))
        layers = apart(context[:2]) if copies and self.net.unroll else None

        def step(ids: Array, cache: Cache) -> tuple[Array, Cache]:
            seen = context if layers is None else Context(*together(layers), context.mask)
            _, out = self.run(ids, None, seen, cache, mode="decode")
            return out["logits"], out["cache"]

        return step


class QueryWriter(NamedTuple):
    """A Q-Former whose text stands behind its queries.

    run: as a Writer's. net: the Q-Former. queries: float[Q, D]. states: float[B, S, D'] that these
    look at.
    """

    run: Callable[..., Any]
    net: QFormer
    queries: Array
    states: Array

    def begin(self, prompt: Array, mask: Array, room: int) -> tuple[Cache, Array, None]:
        """See Speaker."""
        cache = self.net.empty_cache(len(prompt), prompt.shape[1] + room)
        _, out = self.run(self.queries, None, None, self.states, cache, mode="queries")
        _, out = self.run(None, prompt, mask, None, out["cache"], mode="decode")
        return out["cache"], out["logits"], None

    def reader(self, context: None, copies: int = 0) -> Step:
        """See Speaker."""
        del context, copies

        def step(ids: Array, cache: Cache) -> tuple[Array, Cache]:
            _, out = self.run(None, ids, None, None, cache, mode="decode")
            return out["logits"], out["cache"]

        return step


def prompt_of(x: Inputs, first: int) -> tuple[Array, Array | None]:
    """The field `prompt` with its mask, its first id in place of whatever a tokenizer starts with;
    that id alone where there is no prompt."""
    ids, mask = x.batch.get("prompt"), x.batch.get("prompt_mask")
    if ids is None:
        ids = jnp.zeros((len(x.index), 1), jnp.int32)
    return ids.at[:, 0].set(first), mask


def _start(speaker: Speaker, prompt: Array, mask: Array | None, room: int) -> tuple[Start, Any]:
    """The prompt, read."""
    mask = jnp.ones(prompt.shape, bool) if mask is None else mask
    cache, logits, context = speaker.begin(prompt, mask, room)
    last = jnp.maximum(mask.sum(1) - 1, 0)
    logits = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]
    return Start(logits, cache, prompt, mask), context


def write(
    speaker: Speaker,
    prompt: Array,
    mask: Array | None,
    how: Writing,
    stop: tuple[int, ...],
    rng: Array,
) -> Written:
    """New tokens after a prompt (see Speaker.begin).

    Args:
      how: options; stop: ids that end a text; rng: key[B].

    Raises:
      UserError: prompt and new tokens together are more than the network has places for.
    """
    start, context = _start(speaker, prompt, mask, how.max_new)
    read = speaker.reader(context, how.returned if how.draws else how.beams)

    def step(ids: Array, cache: Cache) -> tuple[Array, Cache]:
        logits, cache = read(ids, cache)
        return logits[:, 0], cache

    return generate(Model(step, take_rows), start, how, stop, rng)


def likelihood(
    speaker: Speaker,
    prompt: Array,
    mask: Array | None,
    texts: Array,
    real: Array | None,
    how: Scoring,
) -> Array:
    """The log-likelihood of each text after a prompt (see Speaker.begin), which is read once.

    texts: int32[B, K, L] with `real` bool[B, K, L]; the first id, a text's own start, is left out.
    float32[B, K]

    Raises:
      UserError: prompt and text together are more than the network has places for.
    """
    real = jnp.ones(texts.shape, bool) if real is None else real
    start, context = _start(speaker, prompt, mask, texts.shape[2] - 1)
    read = speaker.reader(context)
    logits = lambda ids: read(ids, start.cache)[0]  # noqa: E731
    return score(logits, start.logits, texts[..., 1:], real[..., 1:], how)

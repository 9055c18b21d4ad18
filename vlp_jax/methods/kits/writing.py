"""Texts that a part writes or scores beside states: the prompt read into a cache, then decoding/.

The file exists so that captions and answers, and every later language model, are written and scored
by one piece of code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.decoding.generate import generate
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring, score
from vlp_jax.decoding.steps import Model, Start, Written
from vlp_jax.models.med import MED
from vlp_jax.nn.cache import Cache, Context, States, take_rows


class Writer(NamedTuple):
    """A part of a method at hand.

    run: Method.apply of the part, its first three arguments given. net: the MED, whose decoder
    writes. states: what it looks at.
    """

    run: Callable[..., Any]
    net: MED
    states: States

    def begin(self, prompt: Array, mask: Array | None, room: int) -> tuple[Context, Start]:
        """Reads a prompt, int32[B, P], padded on the right with mask bool[B, P]; room: for so many
        tokens more."""
        mask = jnp.ones(prompt.shape, bool) if mask is None else mask
        context = self.run(None, None, self.states, mode="look")
        cache = self.net.empty_cache(len(prompt), prompt.shape[1] + room)
        _, out = self.run(prompt, mask, context, cache, mode="decode")
        last = jnp.maximum(mask.sum(1) - 1, 0)
        logits = jnp.take_along_axis(out["logits"], last[:, None, None], axis=1)[:, 0]
        return context, Start(logits, out["cache"], prompt, mask)


def write(
    writer: Writer,
    prompt: Array,
    mask: Array | None,
    how: Writing,
    stop: tuple[int, ...],
    rng: Array,
) -> Written:
    """New tokens after a prompt (see Writer.begin).

    Args:
      how: options; stop: ids that end a text; rng: key[B].

    Raises:
      UserError: prompt and new tokens together are more than the network has places for.
    """
    context, start = writer.begin(prompt, mask, how.max_new)
    copies = how.returned if how.draws else how.beams
    wide = take_rows(context, jnp.repeat(jnp.arange(len(prompt)), copies))

    def step(ids: Array, cache: Cache) -> tuple[Array, Any]:
        _, out = writer.run(ids, None, wide, cache, mode="decode")
        return out["logits"][:, 0], out["cache"]

    return generate(Model(step, take_rows), start, how, stop, rng)


def likelihood(
    writer: Writer,
    prompt: Array,
    mask: Array | None,
    texts: Array,
    real: Array | None,
    how: Scoring,
) -> Array:
    """The log-likelihood of each text after a prompt (see Writer.begin), which is read once.

    texts: int32[B, K, L] with `real` bool[B, K, L]; the first id, a text's own start, is left out.
    float32[B, K]

    Raises:
      UserError: prompt and text together are more than the network has places for.
    """
    real = jnp.ones(texts.shape, bool) if real is None else real
    context, start = writer.begin(prompt, mask, texts.shape[2] - 1)

    def read(ids: Array) -> Array:
        return writer.run(ids, None, context, start.cache, mode="decode")[1]["logits"]

    return score(read, start.logits, texts[..., 1:], real[..., 1:], how)

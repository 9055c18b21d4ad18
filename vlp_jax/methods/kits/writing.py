"""Texts that a part writes beside states: the prompt read into a cache, then decoding/.

The file exists so that captions and answers, and every later language model, are written by one
piece of code.
"""

from typing import Any

import jax.numpy as jnp

from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.decoding.generate import generate
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.steps import Model, Start, Written
from vlp_jax.methods.base import Method
from vlp_jax.models.med import MED
from vlp_jax.nn.cache import Cache, States, take_rows


def write(
    method: Method,
    v: Vars,
    x: Inputs,
    part: str,
    net: MED,
    states: States,
    prompt: Array,
    mask: Array | None,
    how: Writing,
    stop: tuple[int, ...],
) -> Written:
    """New tokens after `prompt`, int32[B, P], padded on the right with mask bool[B, P].

    Args:
      part: the MED's name, whose decoder writes.
      states: what it looks at.
      how: options; stop: ids that end a text.

    Raises:
      UserError: prompt and new tokens together are more than the network has places for.
    """
    run = lambda *given, **more: method.apply(part, v, x, *given, **more)  # noqa: E731
    mask = jnp.ones(prompt.shape, bool) if mask is None else mask
    context = run(None, None, states, mode="look")
    cache = net.empty_cache(len(prompt), prompt.shape[1] + how.max_new)
    _, out = run(prompt, mask, context, cache, mode="decode")
    last = jnp.maximum(mask.sum(1) - 1, 0)
    logits = jnp.take_along_axis(out["logits"], last[:, None, None], axis=1)[:, 0]
    copies = how.returned if how.draws else how.beams
    wide = take_rows(context, jnp.repeat(jnp.arange(len(prompt)), copies))

    def step(ids: Array, cache: Cache) -> tuple[Array, Any]:
        _, out = run(ids, None, wide, cache, mode="decode")
        return out["logits"][:, 0], out["cache"]

    start = Start(logits, out["cache"], prompt, mask)
    return generate(Model(step, take_rows), start, how, stop, x.rng)

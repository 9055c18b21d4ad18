"""Texts that a part writes or scores: the prompt read into a cache, then decoding/.

The file exists so that captions and answers, and every language model, are written and scored by
one piece of code.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.decoding.generate import generate
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring, score
from vlp_jax.decoding.steps import Model, Start, Written
from vlp_jax.methods.base import Method
from vlp_jax.models.decoder_lm import DecoderLM
from vlp_jax.models.med import MED
from vlp_jax.models.qformer import QFormer
from vlp_jax.models.t5 import T5
from vlp_jax.nn.cache import Cache, Context, States, take_rows
from vlp_jax.nn.layers import Layers, apart, together

Run = Callable[..., Any]  # a network's call


class Writer(NamedTuple):
    """A network that writes, at hand.

    Attributes:
      begin: f(prompt int32[B, P], mask bool[B, P], room) -> (what it looks at, or None; logits
        float[B, V] after the prompt; a cache with room for so many tokens more).
      read: f(ids int32[B, t], what it looks at, cache) -> (logits float32[B, t, V], cache).
      unroll: its layers lie apart, and so must what they look at and keep.
    """

    begin: Callable[[Array, Array, int], tuple[Context | None, Array, Cache]]
    read: Callable[[Array, Context | None, Cache], tuple[Array, Cache]]
    unroll: bool = False

    def start(self, prompt: Array, mask: Array | None, room: int) -> tuple[Context | None, Start]:
        """Reads a prompt, int32[B, P], padded on the right with mask bool[B, P]; room: for so many
        tokens more."""
        mask = jnp.ones(prompt.shape, bool) if mask is None else mask
        context, logits, cache = self.begin(prompt, mask, room)
        return context, Start(logits, cache, prompt, mask)


def caller(method: Method, v: Vars, x: Inputs, part: str, net: nn.Module) -> tuple[Run, nn.Module]:
    """(Method.apply of a part with its first three arguments, its network); its blocks stacked or
    as Layers (nn/layers.py), for which the network is unrolled."""
    found = v.params[part]
    if not isinstance(found.get("blocks"), Layers):
        return functools.partial(method.apply, part, v, x), net
    net = net.clone(unroll=True)

    def run(*args: Any, **how: Any) -> Any:
        whole = {**found, "blocks": together(found["blocks"])}
        w = v._replace(params={**v.params, part: whole})
        return method.apply(part, w, x, *args, net=net, **how)

    return run, net


def beside_states(run: Run, net: MED, states: States) -> Writer:
    """The decoder of a MED, which looks at states."""

    def begin(prompt: Array, mask: Array, room: int) -> tuple[Context, Array, Cache]:
        context = run(None, None, states, mode="look")
        cache = net.empty_cache(len(prompt), prompt.shape[1] + room)
        _, out = run(prompt, mask, context, cache, mode="decode")
        last = jnp.maximum(mask.sum(1) - 1, 0)
        logits = jnp.take_along_axis(out["logits"], last[:, None, None], axis=1)[:, 0]
        return context, logits, out["cache"]

    def read(ids: Array, context: Context, cache: Cache) -> tuple[Array, Cache]:
        _, out = run(ids, None, context, cache, mode="decode")
        return out["logits"], out["cache"]

    return Writer(begin, read, net.unroll)


def behind_queries(run: Run, net: QFormer, queries: Array, states: Array) -> Writer:
    """A Q-Former whose text stands behind its queries, float[Q, D], which look at states,
    float[B, S, D']."""

    def begin(prompt: Array, mask: Array, room: int) -> tuple[None, Array, Cache]:
        cache = net.empty_cache(len(prompt), prompt.shape[1] + room)
        _, out = run(queries, None, None, states, cache, mode="queries")
        _, out = run(None, prompt, mask, None, out["cache"], mode="decode")
        last = jnp.maximum(mask.sum(1) - 1, 0)
        logits = jnp.take_along_axis(out["logits"], last[:, None, None], axis=1)[:, 0]
        return None, logits, out["cache"]

    def read(ids: Array, context: None, cache: Cache) -> tuple[Array, Cache]:
        del context
        _, out = run(None, ids, None, None, cache, mode="decode")
        return out["logits"], out["cache"]

    return Writer(begin, read)


def after_words(run: Run, net: DecoderLM, prefix: Array | None = None) -> Writer:
    """A language model, which goes on from its prompt; prefix: float[B, N, W] in the place of
    words before that (a picture's tokens)."""

    def begin(prompt: Array, mask: Array, room: int) -> tuple[None, Array, Cache]:
        if prefix is not None:
            ids = run(prompt, mode="words")
            prompt = jnp.concatenate([prefix.astype(ids.dtype), ids], axis=1)
            mask = jnp.concatenate([jnp.ones(prefix.shape[:2], bool), mask], axis=1)
        cache = net.empty_cache(len(prompt), prompt.shape[1] + room)
        last = jnp.maximum(mask.sum(1) - 1, 0)
        _, out = run(prompt, mask, cache, last[:, None])
        return None, out["logits"][:, 0], out["cache"]

    def read(ids: Array, context: None, cache: Cache) -> tuple[Array, Cache]:
        del context
        _, out = run(ids, None, cache)
        return out["logits"], out["cache"]

    return Writer(begin, read, net.unroll)


def after_encoding(run: Run, net: T5, ids: Array, mask: Array | None) -> Writer:
    """The decoder of a T5, whose encoder reads ids, int32[B, T], or float[B, T, D] in place of
    words; mask: bool[B, T], real ones."""

    def begin(prompt: Array, real: Array, room: int) -> tuple[Context, Array, Cache]:
        states, _ = run(ids, mask, mode="encode")
        context = run(None, context=States(states, mask), mode="look")
        cache = net.empty_cache(len(prompt), prompt.shape[1] + room)
        logits, cache = read(prompt, context, cache)
        return context, logits[:, -1], cache

    def read(words: Array, context: Context, cache: Cache) -> tuple[Array, Cache]:
        _, out = run(None, target=words, context=context, cache=cache, mode="decode")
        return out["logits"], out["cache"]

    return Writer(begin, read)


def prompt_of(x: Inputs, first: int) -> tuple[Array, Array | None]:
    """The field `prompt` with its mask, its first id in place of whatever a tokenizer starts with;
    that id alone where there is no prompt."""
    ids, mask = x.batch.get("prompt"), x.batch.get("prompt_mask")
    if ids is None:
        ids = jnp.zeros((len(x.index), 1), jnp.int32)
    return ids.at[:, 0].set(first), mask


def write(
    writer: Writer,
    prompt: Array,
    mask: Array | None,
    how: Writing,
    stop: tuple[int, ...],
    rng: Array,
) -> Written:
    """New tokens after a prompt (see Writer.start).

    Args:
      how: options; stop: ids that end a text; rng: key[B].

    Raises:
      UserError: prompt and new tokens together are more than the network has places for.
    """
    wide, start = writer.start(prompt, mask, how.max_new)
    layers = None
    if writer.unroll:
        start = start._replace(cache=start.cache.apart())
    if wide is not None:
        copies = how.returned if how.draws else how.beams
        wide = take_rows(wide, jnp.repeat(jnp.arange(len(prompt)), copies))
        layers = apart(wide[:2]) if writer.unroll else None

    def step(ids: Array, cache: Cache) -> tuple[Array, Cache]:
        seen = wide if layers is None else Context(*together(layers), wide.mask)
        logits, cache = writer.read(ids, seen, cache)
        return logits[:, 0], cache

    return generate(Model(step, take_rows), start, how, stop, rng)


def likelihood(
    writer: Writer,
    prompt: Array,
    mask: Array | None,
    texts: Array,
    real: Array | None,
    how: Scoring,
) -> Array:
    """The log-likelihood of each text after a prompt (see Writer.start), which is read once.

    texts: int32[B, K, L] with `real` bool[B, K, L]; the first id, a text's own start, is left out.
    float32[B, K]

    Raises:
      UserError: prompt and text together are more than the network has places for.
    """
    real = jnp.ones(texts.shape, bool) if real is None else real
    context, start = writer.start(prompt, mask, texts.shape[2] - 1)

    def read(ids: Array) -> Array:
        return writer.read(ids, context, start.cache)[0]

    return score(read, start.logits, texts[..., 1:], real[..., 1:], how)

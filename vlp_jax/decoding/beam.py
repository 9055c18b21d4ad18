"""Beam search with transformers' rules (generation/utils.py `_beam_search`, 5.x), so that both
libraries write the same texts.

Of a row's beams x V continuations the best (1 + stop ids) x beams are looked at. Those among the
first `beams` that end are kept where their score (Writing.length_penalty) is among the best;
those that do not end go on. A row is closed once its best running text, scored at its present
length, cannot beat the worst that is kept. The file exists to hold these rules.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from vlp_jax.core.types import Array
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.steps import (
    NEVER,
    Model,
    Start,
    Written,
    also_said,
    is_stop,
    limited,
    said,
)


class _Kept(NamedTuple):
    """Texts that ended, best first: int32[B, K, M], float32[B, K], bool[B, K] (there is one),
    int32[B, K]."""

    ids: Array
    score: Array
    there: Array
    length: Array


class _Beams(NamedTuple):
    """number: new tokens so far. ids, score: of running texts, int32[B, K, M], float32[B, K].
    kept; open: bool[B], see above. stuck: every continuation ended. token, rows: int32[B K], the
    last token and where each text came from. seen: bool[B K, V]. cache."""

    number: Array
    ids: Array
    score: Array
    kept: _Kept
    open: Array
    stuck: Array
    token: Array
    rows: Array
    seen: Array | None
    cache: Any


def write(model: Model, start: Start, how: Writing, stop: tuple[int, ...]) -> Written:
    """The how.returned best of how.beams texts of at most how.max_new tokens."""
    beams, size = len(start.logits), how.beams

    def choose(b: _Beams, logits: Array) -> _Beams:
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        log_p = limited(log_p, b.number, b.seen, how, stop)
        total = rearrange(log_p, "(b k) v -> b k v", k=size) + b.score[..., None]
        wide = max(2, 1 + len(stop)) * size
        score, flat = jax.lax.top_k(rearrange(total, "b k v -> b (k v)"), wide)
        beam, token = flat // total.shape[-1], flat % total.shape[-1]
        ids = _pick(b.ids, beam).at[:, :, b.number].set(token)
        ended = is_stop(token, stop) if stop else jnp.zeros(token.shape, bool)
        ends = ended | (b.number + 1 >= how.max_new)
        going, at = jax.lax.top_k(score + NEVER * ends, size)
        rows = _pick(beam, at) + size * jnp.arange(beams)[:, None]
        kept = _keep(b, ids, score, ends & (jnp.arange(wide) < size), ended, how)
        number = b.number + 1
        best = going[:, :1] / number.astype(jnp.float32) ** how.length_penalty
        worst = jnp.where(kept.there, kept.score.min(1, keepdims=True), NEVER)
        flat_rows, flat_token = rows.reshape(-1), _pick(token, at).reshape(-1)
        seen = b.seen if b.seen is None else also_said(b.seen[flat_rows], flat_token)
        return _Beams(
            number=number,
            ids=_pick(ids, at),
            score=going,
            kept=kept,
            open=b.open & (best > worst).any(1),
            stuck=ends.all(),
            token=flat_token.astype(jnp.int32),
            rows=flat_rows,
            seen=seen,
            cache=b.cache,
        )

    def goes_on(b: _Beams) -> Array:
        enough = b.kept.there.all() & how.early_stopping
        return b.open.any() & ~enough & ~b.stuck

    def advance(b: _Beams) -> _Beams:
        logits, cache = model.step(b.token[:, None], model.take(b.cache, b.rows))
        return choose(b._replace(cache=cache), logits)

    rows = jnp.repeat(jnp.arange(beams), size)
    first = _first(beams, how, said(start, how), model.take(start.cache, rows))
    done = jax.lax.while_loop(goes_on, advance, choose(first, start.logits[rows]))
    kept = jax.tree.map(lambda x: x[:, : how.returned], done.kept)
    shown = jnp.where(jnp.arange(how.max_new) < kept.length[..., None], kept.ids, 0)
    return Written(shown, kept.length, kept.score)


def _first(count: int, how: Writing, seen: Array | None, cache: Any) -> _Beams:
    """Before the first token: all beams are one text, so only the first may be continued."""
    size = how.beams
    ids = jnp.zeros((count, size, how.max_new), jnp.int32)
    out, none = jnp.full((count, size), NEVER), jnp.zeros((count, size), jnp.int32)
    return _Beams(
        number=jnp.int32(0),
        ids=ids,
        score=out.at[:, 0].set(0),
        kept=_Kept(ids, out, jnp.zeros((count, size), bool), none),
        open=jnp.ones(count, bool),
        stuck=jnp.bool_(False),
        token=jnp.zeros(count * size, jnp.int32),
        rows=jnp.arange(count * size),
        seen=None if seen is None else repeat(seen, "b v -> (b k) v", k=size),
        cache=cache,
    )


def _keep(b: _Beams, ids: Array, score: Array, ends: Array, ended: Array, how: Writing) -> _Kept:
    """What is kept after continuations ids [B, C, M], score [B, C]: those that `ends` bool[B, C]
    join, where the row is open and, under early stopping, not full; `ended`: by a stop id."""
    number = b.number + 1
    score = score / number.astype(jnp.float32) ** how.length_penalty
    full = b.kept.there.all(1) & how.early_stopping
    score = score + NEVER * full[:, None] + NEVER * ~b.open[:, None] + NEVER * ~ends
    new = _Kept(ids, score, ends, jnp.broadcast_to(number, ends.shape) - ended)
    both = jax.tree.map(lambda old, more: jnp.concatenate([old, more], axis=1), b.kept, new)
    at = jax.lax.top_k(both.score, how.beams)[1]
    return jax.tree.map(lambda x: _pick(x, at), both)


def _pick(x: Array, at: Array) -> Array:
    """x [B, C, ...] at int32[B, K] -> [B, K, ...]"""
    return jax.vmap(lambda row, places: row[places])(x, at)

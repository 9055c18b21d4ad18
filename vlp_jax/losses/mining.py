"""Hard negatives of the whole batch, drawn without a matrix of all pairs (ALBEF, arXiv:2107.07651,
section 3.2; BLIP, arXiv:2201.12086).

Row i takes j with probability proportional to softmax_j(scale q_i . k_j) + floor among the pairs
that may be negatives: the largest log weight plus Gumbel noise. The noise is a function of the
row's key and of j, so that a draw depends neither on devices nor on how the batch is split. The
file exists as the one place that picks partners.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array
from vlp_jax.core.vectors import similarities
from vlp_jax.parallel.collectives import SPLIT, WHOLE, BatchAxes, over_batch

TILE = 256  # columns at a time; part of the draws, so it is no setting
_NONE = -1e30  # log weight of a pair that is no negative


def draw_negatives(
    query: Array,
    key: Array,
    scale: Array | float,
    rng: Array,
    row_ids: Array,
    column_ids: Array,
    floor: float = 1e-4,
) -> tuple[Array, Array]:
    """One negative for every row.

    Args:
      query: float[b, E], rows at hand; key: float[B, E] of the whole batch; both of unit norm. A
        row of either may be a set of vectors, [b, n, E] or [B, n, E]: core/vectors.py similarities.
      scale: float[], factor of the cosines (1 / temperature).
      rng: key[b], one per row.
      row_ids: int32[b]; column_ids: int32[B]: pairs of equal ids are no negatives.
      floor: added to the softmax, which runs over all of the batch; 1e-4 in pre-training, none in
        the reference's fine-tuning for retrieval.

    Returns:
      (int32[b] numbers in the batch, bool[b] whether there is a negative at all; without one the
      number is 0). No gradient.
    """

    def run(axes: BatchAxes, query: Array, key: Array, scale: Array, *ids: Array) -> tuple:
        words, rows, columns = ids
        keys = jax.random.wrap_key_data(words)
        key, columns = axes.gather(key), axes.gather(columns)
        short = -len(key) % TILE
        tiles = (
            rearrange(_padded(key, short), "(n t) ... -> n t ...", t=TILE),
            jnp.pad(columns, (0, short)).reshape(-1, TILE),
            jnp.arange(len(key) + short).reshape(-1, TILE),
        )

        def logits(some: Array, numbers: Array) -> Array:  # [b, t]
            found = scale * similarities(query, some)
            return jnp.where(numbers < len(key), found, _NONE)

        def total(carry: Array, tile: tuple) -> tuple:
            found = logits(tile[0], tile[2])
            return jnp.logaddexp(carry, jax.nn.logsumexp(found, axis=1)), None

        def best(carry: tuple, tile: tuple) -> tuple:
            (top, at), (some, ids, numbers) = carry, tile
            weight = jnp.logaddexp(logits(some, numbers) - norm[:, None], jnp.log(floor))
            weight = jnp.where((rows[:, None] == ids) | (numbers >= len(key)), _NONE, weight)
            noise = jax.vmap(lambda k: jax.random.gumbel(_fold(k, numbers[0] // TILE), (TILE,)))
            noisy = jnp.where(weight > _NONE, weight + noise(keys), _NONE)
            high = noisy.max(1)
            here = numbers[noisy.argmax(1)]
            return (jnp.maximum(top, high), jnp.where(high > top, here, at)), None

        norm = jax.lax.scan(total, jnp.full(len(query), _NONE), tiles)[0]
        start = jnp.full(len(query), _NONE), jnp.zeros(len(query), jnp.int32)
        (top, at), _ = jax.lax.scan(best, start, tiles)
        return at, top > _NONE

    parts = jax.lax.stop_gradient((query, key, jnp.asarray(scale)))
    query, key, scale = (part.astype(jnp.float32) for part in parts)
    specs = (SPLIT, SPLIT, WHOLE, SPLIT, SPLIT, SPLIT)
    drawn = over_batch(run, specs, (SPLIT, SPLIT))
    return drawn(query, key, scale, jax.random.key_data(rng), row_ids, column_ids)


def _padded(rows: Array, count: int) -> Array:
    return jnp.pad(rows, ((0, count), *[(0, 0)] * (rows.ndim - 1)))


def _fold(key: Array, number: Array) -> Array:
    return jax.random.fold_in(key, number)

"""Random subsets of tokens and the gather that keeps them (FLIP, arXiv:2212.00794; MAE,
arXiv:2111.06377).

The file exists because masking pays only when it costs nothing beside the blocks: one plain sort
per example, and a backward pass that gathers where automatic differentiation would scatter.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


def random_subset(rng: Array, count: int, keep: int) -> Array:
    """Draws `keep` of `count` places for every example, each subset equally likely.

    The place rides in the low bits of its random number, so that one sort of plain integers orders
    both. Worked example for count 4: the draws 0b10_00, 0b01_01, 0b11_10, 0b00_11 of places 0 to 3
    sort to places 3, 1, 0, 2; keep=2 gives [1, 3].

    Args:
      rng: key[B].
      count: N, at most 65,536, which leaves 16 random bits.
      keep: N', from 1 to N.

    Returns:
      int32[B, N'], rising.
    """
    low = jnp.uint32((1 << (count - 1).bit_length()) - 1)
    noise = jax.vmap(lambda key: jax.random.bits(key, (count,)))(rng)  # uint32[B, N]
    drawn = jnp.sort((noise & ~low) | jnp.arange(count, dtype=jnp.uint32), axis=1)[:, :keep]
    return jnp.sort((drawn & low).astype(jnp.int32), axis=1)


def _gather(tokens: Array, places: Array) -> Array:
    return jnp.take_along_axis(tokens, places[:, :, None], axis=1, mode="promise_in_bounds")


@jax.custom_vjp
def take_tokens(tokens: Array, places: Array) -> Array:
    """Tokens float[B, N, D] at places int32[B, N'], rising without repetition -> float[B, N', D].

    The gradient of a place is that of its rank among the chosen, or zero: a gather as well.
    """
    return _gather(tokens, places)


def _take_forward(tokens: Array, places: Array) -> tuple[Array, tuple[Array, Array]]:
    return _gather(tokens, places), (places, jnp.arange(tokens.shape[1]))


def _take_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    places, every = kept
    chosen = places[:, None, :] == every[:, None]  # [B, N, N'], at most one True in a row
    rank = jnp.argmax(chosen, axis=2)
    return jnp.where(chosen.any(2)[:, :, None], _gather(gradient, rank), 0), None


take_tokens.defvjp(_take_forward, _take_backward)

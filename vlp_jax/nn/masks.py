"""Random subsets of tokens and the gather that keeps them (FLIP, arXiv:2212.00794; MAE,
arXiv:2111.06377).

The file exists because masking pays only when it costs nothing beside the blocks: one plain sort
per example, and a backward pass that gathers where automatic differentiation would scatter.
"""

import functools

import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array

MASKINGS = ("random", "block", "grid")
BLOCKS = 16  # drawn per picture; so many of BEiT's size cover three quarters of a grid
MIN_BLOCK, ASPECT = 16, 0.3  # patches; shortest side over longest (BEiT, arXiv:2106.08254 2.3)


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
    return _lowest(jax.vmap(lambda key: jax.random.bits(key, (count,)))(rng), keep)


def _lowest(noise: Array, keep: int) -> Array:
    """Places of the `keep` lowest entries of uint32[B, N], but for its low bits: int32[B, N'],
    rising.
    """
    count = noise.shape[1]
    low = jnp.uint32((1 << (count - 1).bit_length()) - 1)
    drawn = jnp.sort((noise & ~low) | jnp.arange(count, dtype=jnp.uint32), axis=1)[:, :keep]
    return jnp.sort((drawn & low).astype(jnp.int32), axis=1)


def visible_patches(rng: Array, side: int, keep: int, masking: str) -> Array:
    """Draws the patches of a square grid that stay visible (MAE section 4, Table 1f).

    `random`: every subset alike. `block`: rectangles are hidden one after the other as in BEiT,
    the last one in part, so that the count is exact. `grid`: of every 2 x 2 patches the upper left
    one stays; what is kept beyond or short of these is drawn at random.

    Args:
      rng: key[B].
      side: patches along one side; N = side * side.
      keep: N', from 1 to N.
      masking: one of MASKINGS.

    Returns:
      int32[B, N'], rising.

    Raises:
      UserError: an unknown masking.
    """
    if masking not in MASKINGS:
        raise UserError(f"masking: unknown {masking!r}{nearest(masking, MASKINGS)}")
    if masking == "random":
        return random_subset(rng, side * side, keep)
    hidden = side * side - keep
    first = _block_rank if masking == "block" else _grid_rank

    def noise(key: Array) -> Array:
        places, order = jax.random.split(key)
        return _ranked(order, first(places, side, hidden))

    return _lowest(jax.vmap(noise)(rng), keep)


def _ranked(key: Array, rank: Array) -> Array:
    """uint32[N] noise whose highest byte is a rank int[N] in [0, 255]; higher ranks hide first."""
    bits = jax.random.bits(key, rank.shape)
    return (rank.astype(jnp.uint32) << 24) | (bits >> 8)


def _grid_rank(key: Array, side: int, hidden: int) -> Array:
    """0 at even rows and columns, else 1."""
    del key, hidden
    row, column = jnp.divmod(jnp.arange(side * side), side)
    return (row % 2) | (column % 2)


def _block_rank(key: Array, side: int, hidden: int) -> Array:
    """BLOCKS for patches of the first rectangle drawn, one less for those that only the second
    covers, ..., 0 for those in none.
    """
    keys = jax.random.split(key, 3)
    area = jax.random.uniform(keys[0], (BLOCKS,), minval=min(MIN_BLOCK, hidden), maxval=hidden)
    limit = -jnp.log(ASPECT)
    aspect = jnp.exp(jax.random.uniform(keys[1], (BLOCKS,), minval=-limit, maxval=limit))
    size = jnp.sqrt(area * jnp.stack([aspect, 1 / aspect]))  # [2, BLOCKS] rows, columns
    size = jnp.clip(jnp.round(size), 1, side)
    start = jnp.floor(jax.random.uniform(keys[2], size.shape) * (side - size + 1))
    at = jnp.arange(side)[:, None, None]  # [S, 1, 1]
    inside = (at >= start) & (at < start + size)  # [S, 2, BLOCKS]
    covered = inside[:, None, 0] & inside[None, :, 1]  # [S, S, BLOCKS]
    rank = jnp.where(covered, jnp.arange(BLOCKS, 0, -1), 0).max(-1)
    return rank.reshape(-1)  # [N]


def shuffle(noise: Array) -> tuple[Array, Array]:
    """The order of float[B, N] noise and its inverse, as MAE's reference draws its subsets.

    Worked example: noise [.3, .9, .1] orders places [2, 0, 1]; place 0 stands second, place 1
    last, place 2 first, so the inverse is [1, 2, 0].

    Returns:
      (places int32[B, N] by rising noise, the rank of every place int32[B, N]).
    """
    order = jnp.argsort(noise, axis=1)
    return order, jnp.argsort(order, axis=1)


def is_hidden(places: Array, count: int) -> Array:
    """bool[B, N], True where a place is not among int32[B, N']."""
    return (places[:, None, :] != jnp.arange(count)[:, None]).all(2)


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
    return _spread(gradient, places, every), None


def _spread(tokens: Array, places: Array, every: Array) -> Array:
    chosen = places[:, None, :] == every[:, None]  # [B, N, N'], at most one True in a row
    rank = jnp.argmax(chosen, axis=2)
    return jnp.where(chosen.any(2)[:, :, None], _gather(tokens, rank), 0)


take_tokens.defvjp(_take_forward, _take_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def put_tokens(tokens: Array, places: Array, count: int) -> Array:
    """The adjoint of `take_tokens`: float[B, N', D] to their places int32[B, N'] among `count`,
    zero elsewhere -> float[B, N, D].
    """
    return _spread(tokens, places, jnp.arange(count))


put_tokens.defvjp(
    lambda tokens, places, count: (put_tokens(tokens, places, count), places),
    lambda count, places, gradient: (_gather(gradient, places), None),
)

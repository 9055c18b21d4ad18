"""The order of training examples as a pure function f(seed, epoch, position).

Keyed permutations by a Feistel network with cycle walking (Black and Rogaway 2002, "Ciphers with
arbitrary finite domains"), vectorised over positions. The file exists so that the order needs no
state: a resume at any step, on any number of hosts, costs microseconds and repeats or skips
nothing, and no library upgrade can change it.
"""

import hashlib

import numpy as np

from vlp_jax.core.errors import UserError, nearest

# Version of all that is drawn in training, on host and device, in a run's record. 3: first weights
# are drawn by the name of a part.
STREAM = 3
MODES = ("global", "block", "none")
BLOCK = 256  # neighbours in a shard that stay together until the window is shuffled
WINDOW = 64  # blocks shuffled together
_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(*words) -> np.ndarray:
    """Hashes integers (scalars or arrays, broadcast) to uint64[...] (splitmix64 finaliser,
    chained)."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(w) for w in words)) or (1,), np.uint64)
    for word in words:
        state = state ^ np.asarray(word).astype(np.uint64)
        state = state + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def _feistel(x: np.ndarray, bits: np.ndarray, key: np.ndarray) -> np.ndarray:
    low = bits // np.uint64(2)
    one = np.uint64(1)
    low_mask = (one << low) - one
    high_mask = (one << (bits - low)) - one
    right, left = x & low_mask, x >> low
    for round_ in range(_ROUNDS):
        if round_ % 2:
            right = right ^ (mix64(key, left, round_) & low_mask)
        else:
            left = left ^ (mix64(key, right, round_) & high_mask)
    return (left << low) | right


def permute(x: np.ndarray, n: np.ndarray | int, key: np.ndarray | int) -> np.ndarray:
    """Applies the keyed permutation of [0, n) to x: uint64[...] (n and key broadcast against x)."""
    x = np.atleast_1d(np.asarray(x)).astype(np.uint64)
    n = np.broadcast_to(np.asarray(n).astype(np.uint64), x.shape)
    key = np.broadcast_to(np.asarray(key).astype(np.uint64), x.shape)
    widths = {int(v): max(4, (int(v) - 1).bit_length()) for v in np.unique(n)}
    bits = np.vectorize(widths.__getitem__, otypes=[np.uint64])(n)
    y = _feistel(x, bits, key)
    outside = np.flatnonzero(y >= n)
    while outside.size:
        y[outside] = _feistel(y[outside], bits[outside], key[outside])
        outside = outside[y[outside] >= n[outside]]
    return y


def _block_order(seed: int, epoch, position: np.ndarray, n: int) -> np.ndarray:
    """Blocks in random order, then examples shuffled inside windows of blocks; cut points move by
    epoch."""
    full = n // BLOCK * BLOCK
    span = np.uint64(BLOCK * WINDOW)
    window = position // span
    size = np.minimum(np.uint64(full) - np.minimum(window * span, np.uint64(full)), span)
    tail = position >= np.uint64(full)
    size = np.where(tail, np.uint64(max(1, n - full)), size)
    start = np.where(tail, np.uint64(full), window * span)
    inside = permute(position - start, size, mix64(seed, epoch, 2, window, tail))
    slot = (start + inside) // np.uint64(BLOCK)
    blocks = max(1, full // BLOCK)
    block = permute(np.minimum(slot, np.uint64(blocks - 1)), blocks, mix64(seed, epoch, 3))
    block = np.where(tail, slot, block)
    phase = mix64(seed, epoch, 4) % np.uint64(n)
    return (block * np.uint64(BLOCK) + (start + inside) % np.uint64(BLOCK) + phase) % np.uint64(n)


def position_to_index(seed: int, epoch, position, n: int, mode: str = "global"):
    """Which example stands at `position` of `epoch`: every index of [0, n) once per epoch.

    Args:
        seed: any integer. epoch, position: ints or int arrays (broadcast), 0 <= position < n. n:
        number of examples. mode: 'global' (every example anywhere), 'block' (BLOCK neighbours move
        together and are shuffled inside windows of WINDOW blocks, for object stores) or 'none'.

    Returns an int for scalar input, else int64[...]. Raises UserError for an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"data.shuffle={mode!r} is unknown" + nearest(mode, MODES))
    epochs, positions = np.broadcast_arrays(np.asarray(epoch), np.asarray(position))
    shape = positions.shape
    epochs = epochs.reshape(-1).astype(np.uint64)
    positions = positions.reshape(-1).astype(np.uint64)
    if mode == "global":
        index = permute(positions, n, mix64(seed, epochs, 1))
    elif mode == "block":
        index = _block_order(seed, epochs, positions, n)
    else:
        index = positions
    index = index.astype(np.int64).reshape(shape)
    return index if shape else int(index)


def replacement(seed: int, epoch: int, position: int, attempt: int, n: int) -> int:
    """The example that stands in for a damaged one: a pure function, another draw for every
    attempt."""
    return int(mix64(seed, epoch, position, attempt, 5)[0] % np.uint64(n))


def example_rng(seed: int, epoch: int, position: int, draw: str = "") -> np.random.Generator:
    """Host randomness of one example: a stream of its own for each of its named draws.

    Philox counts up the first two words of its counter, so position and epoch are the other two:
    no two streams of a seed ever meet, and a draw more in one place moves no other.

    Args:
        seed: any integer. epoch, position: integers in [0, 2^64). draw: 'caption', 'word_dropout',
        'template', 'box': whatever the number is for.
    """
    digest = hashlib.blake2b(f"{int(seed)} {draw}".encode(), digest_size=16).digest()
    counter = np.array([0, 0, int(position), int(epoch)], np.uint64)
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, "<u8"), counter=counter))

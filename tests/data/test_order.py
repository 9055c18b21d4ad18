"""The order is a permutation in every epoch, a pure function, and well mixed."""

import itertools

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.data.framing import random_box
from vlp_jax.data.order import (
    BLOCK,
    STREAM,
    example_rng,
    permute,
    position_to_index,
    replacement,
)


@pytest.mark.parametrize("mode", ["global", "block", "none"])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 255, 256, 257, 1000, 17000, 40003])
def test_every_index_once_per_epoch(n, mode):
    for epoch in (0, 3):
        index = position_to_index(5, epoch, np.arange(n), n, mode)
        assert np.array_equal(np.sort(index), np.arange(n))


@pytest.mark.parametrize("mode", ["global", "block"])
def test_scalar_and_array_calls_agree(mode):
    n = 20000
    places = np.random.default_rng(0).integers(0, n, 50)
    whole = position_to_index(1, 2, places, n, mode)
    assert [position_to_index(1, 2, int(p), n, mode) for p in places] == whole.tolist()
    epochs = np.arange(50)
    mixed = position_to_index(1, epochs, places, n, mode)
    singly = [
        position_to_index(1, int(e), int(p), n, mode) for e, p in zip(epochs, places, strict=True)
    ]
    assert mixed.tolist() == singly


def test_the_order_is_frozen():
    """A change of these numbers would break the resume of every run in flight."""
    assert position_to_index(0, 0, np.arange(8), 100).tolist() == FROZEN_GLOBAL
    assert position_to_index(0, 1, np.arange(8), 100).tolist() == FROZEN_EPOCH_1
    assert replacement(0, 0, 5, 1, 1000) == FROZEN_REPLACEMENT
    draws = [example_rng(0, 1, 2, "box").integers(1000), example_rng(-3, 0, 0).integers(1000)]
    assert (STREAM, draws) == (3, FROZEN_DRAWS), "other draws need another STREAM"


FROZEN_GLOBAL = [71, 4, 87, 62, 59, 7, 17, 22]
FROZEN_EPOCH_1 = [28, 24, 71, 80, 89, 4, 44, 72]
FROZEN_REPLACEMENT = 373
FROZEN_DRAWS = [438, 296]


@pytest.mark.parametrize("n", [7, 100, 4096])
def test_seeds_and_epochs_give_different_orders(n):
    orders = {tuple(position_to_index(s, e, np.arange(n), n)) for s in range(4) for e in range(4)}
    assert len(orders) == 16


def test_global_order_is_well_mixed():
    """Every (position, index) pair of a small set is about as frequent as chance says."""
    n, rounds = 12, 6000
    counts = np.zeros((n, n))
    for seed in range(rounds // 100):
        epochs = np.repeat(np.arange(100), n)
        places = np.tile(np.arange(n), 100)
        np.add.at(counts, (places, position_to_index(seed, epochs, places, n)), 1)
    chi2 = ((counts - rounds / n) ** 2 / (rounds / n)).sum()
    assert chi2 < 121 + 6 * np.sqrt(2 * 121)  # (n - 1)^2 degrees of freedom


def test_neighbours_in_a_shard_part_ways():
    index = position_to_index(0, 0, np.arange(100_000), 100_000)
    assert abs(np.corrcoef(np.arange(100_000), index)[0, 1]) < 0.02
    assert (np.abs(np.diff(index)) < 50).mean() < 0.005


def test_block_order_reads_few_blocks_at_a_time():
    """A window of positions touches few blocks of neighbours, yet is shuffled inside."""
    n = 64 * BLOCK * 8
    index = position_to_index(0, 0, np.arange(64 * BLOCK), n, "block")
    assert len(np.unique(index // BLOCK)) <= 2 * 64
    assert (np.abs(np.diff(index)) <= 1).mean() < 0.01


def test_block_order_changes_over_epochs():
    """Other cut points, other blocks in a window, and another order inside of it."""
    blocks, span = 256, 64 * BLOCK
    cuts, windows, places = [], [], []
    for epoch in range(3):
        index = position_to_index(0, epoch, np.arange(span), blocks * BLOCK, "block")
        fits = [cut for cut in range(BLOCK) if len(np.unique((index - cut) // BLOCK)) == 64]
        assert len(fits) == 1, "a window is 64 whole blocks"
        cuts.append(fits[0])
        windows.append(set((np.unique((index - fits[0]) // BLOCK) % blocks).tolist()))
        places.append((index - fits[0]) % BLOCK)
    assert len(set(cuts)) == 3
    for a, b in ((0, 1), (1, 2), (0, 2)):
        for turn in range(blocks):  # by chance 16 of 64
            assert len({(block + turn) % blocks for block in windows[a]} & windows[b]) < 40
        assert (places[a] == places[b]).mean() < 2 / BLOCK


def test_permute_is_keyed():
    x = np.arange(1000)
    assert not np.array_equal(permute(x, 1000, 1), permute(x, 1000, 2))


def test_unknown_mode_is_refused():
    with pytest.raises(UserError, match=r"data.shuffle='globl'.*did you mean 'global'"):
        position_to_index(0, 0, 0, 5, "globl")


def test_example_rng_depends_on_all_three():
    draws = {
        example_rng(s, e, p).random() for s in range(3) for e in range(3) for p in (0, 1, 2**40)
    }
    assert len(draws) == 27
    assert example_rng(1, 2, 3).random() == example_rng(1, 2, 3).random()


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64 + 7])
def test_no_two_streams_share_a_number(seed):
    """Neighbours in every argument, 64 draws of each; 64 bits never meet by chance."""
    places = [(s, e, p) for s in (seed, seed + 1) for e in (0, 1) for p in (0, 1, 2, 2**40)]
    names = ("", "caption", "word_dropout", "template", "box")
    streams = [
        example_rng(*place, name).integers(2**64, size=64, dtype=np.uint64)
        for place in places
        for name in names
    ]
    assert len(np.unique(streams)) == len(places) * len(names) * 64
    assert example_rng(-1, 0, 0).random() != example_rng(2**64 - 1, 0, 0).random()


def test_the_crop_of_a_row_is_not_that_of_the_row_before():
    """Few boxes of this scale fit, so that chance alone repeats about one in seven."""
    boxes = [random_box(480, 640, example_rng(0, 0, p, "box"), (0.9, 1.0)) for p in range(1500)]
    same = np.mean([a == b for a, b in itertools.pairwise(boxes)])
    apart = np.mean([a == b for a, b in zip(boxes, boxes[700:], strict=False)])
    assert abs(same - apart) < 0.05

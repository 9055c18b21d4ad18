"""Orders that mix sources by weight: shares, epochs and independence."""

import numpy as np

from vlp_jax.data.mixture import WeightedOrder
from vlp_jax.data.order import position_to_index


def test_a_source_of_a_mixture_has_no_other_run_s_order():
    """Not that of the next source under the seed before, and not the plain one of a near seed."""
    place, orders = np.arange(4096 * 2), []
    for seed in range(3):
        found = WeightedOrder([500, 500], (1, 1), seed, "global").index(place)
        orders += [tuple(found[found // 500 == s][:500] % 500) for s in (0, 1)]
        orders.append(tuple(position_to_index(seed, 0, np.arange(500), 500)))
    assert len(set(orders)) == 9 and all(sorted(order) == list(range(500)) for order in orders)


def test_mixture_weights_are_exact_shares_of_fresh_epochs():
    order = WeightedOrder([100, 37], (3, 1), seed=4, mode="global")
    index = order.index(np.arange(4096 * 3))
    assert abs((index >= 100).mean() - 0.25) < 1e-3
    first, second = index[index < 100], index[index >= 100] - 100
    for part, size in ((first, 100), (second, 37)):
        for epoch in range(len(part) // size):
            assert sorted(part[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert np.array_equal(order.index(np.arange(9000, 9100)), index[9000:9100])
    window = (index >= 100)[:512]
    assert 80 < window.sum() < 176


def test_sources_of_a_mixture_are_shuffled_apart():
    """Two of one size, such as a caption set and its translation, do not march in step."""
    order = WeightedOrder([500, 500], (1, 1), seed=4, mode="global")
    index = order.index(np.arange(4096))
    first, second = index[index < 500][:500], index[index >= 500][:500] - 500
    assert sorted(first) == sorted(second) == list(range(500))
    assert (first == second).sum() < 10

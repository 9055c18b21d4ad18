"""Permutation sets lie as far apart as they say."""

import itertools

import numpy as np
import pytest

from vlp_jax.augment.permutations import distant_permutations
from vlp_jax.core.errors import UserError


def distances(found):
    return (found[:, None] != found[None]).sum(-1)[np.triu_indices(len(found), 1)]


def test_the_set_is_a_set_of_permutations_and_the_same_every_time():
    found = distant_permutations(9, 40)
    assert found.shape == (40, 9) and (np.sort(found, axis=1) == np.arange(9)).all()
    assert len({tuple(row) for row in found}) == 40
    assert (found[0] == np.arange(9)).all()
    distant_permutations.cache_clear()
    np.testing.assert_array_equal(distant_permutations(9, 40), found)
    np.testing.assert_array_equal(distant_permutations(9, 5), found[:5])


@pytest.mark.parametrize("count, minimum", [(9, 9), (40, 7), (64, 7)])
def test_minimum_distance(count, minimum):
    """Nine permutations of nine items can all differ everywhere (a Latin square)."""
    assert distances(distant_permutations(9, count)).min() >= minimum


def test_every_choice_is_the_best_one_left():
    found = distant_permutations(4, 24)
    assert len({tuple(row) for row in found}) == 24
    every = np.array(list(itertools.permutations(range(4))))
    for k in range(1, 24):
        nearest = (every[:, None] != found[:k]).sum(-1).min(1)
        assert (found[k] != found[:k]).sum(-1).min() == nearest.max()
    assert distances(distant_permutations(4, 4)).min() == 4


@pytest.mark.parametrize("count", [0, 1, 25])
def test_counts_that_cannot_be(count):
    with pytest.raises(UserError, match=f"permutations={count}: 4 tiles have from 2 to 24"):
        distant_permutations(4, count)

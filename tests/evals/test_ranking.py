"""Ranks and neighbours against plain numpy loops, with ties, multiplicities and blocks."""

import numpy as np
import pytest

from vlp_jax.core.vectors import facing
from vlp_jax.evals.kits import ranking
from vlp_jax.evals.kits.ranking import nearest_neighbours, rank, rank_few


def integers(rng, *shape):
    """Small integers: products are exact, and ties are many."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def slow_rank(sims, positive, weight, extra):
    out = []
    for row, wanted, copies in zip(sims, positive, extra, strict=True):
        own = {int(p): int(e) for p, e in zip(wanted, copies, strict=True) if p >= 0}
        best = max(row[p] for p in own)
        place = 1
        for j, value in enumerate(row):
            negatives = own[j] if j in own else weight[j]
            place += negatives if value >= best else 0
        out.append(place)
    return out


@pytest.mark.parametrize("block", [1, 37, 2**24])
def test_ranks_equal_the_loop_for_any_block_size(block, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", block)
    rng = np.random.default_rng(1)
    queries, candidates = integers(rng, 23, 3), integers(rng, 9, 3)
    positive = np.stack([rng.permutation(9)[:3] for _ in range(23)]).astype(np.int32)
    positive[::2, 1:] = -1
    weight = rng.integers(1, 4, 9)
    extra = np.where(positive < 0, 0, rng.integers(0, 2, positive.shape))
    extra = np.minimum(extra, weight[positive] - 1).astype(np.int32)
    found = rank(queries, candidates, positive, weight=weight, extra=extra)
    sims = queries @ candidates.T
    assert found.rank.tolist() == slow_rank(sims, positive, weight, extra)
    assert len(set(found.rank.tolist())) > 3
    np.testing.assert_array_equal(found.score, -np.sort(-sims, axis=1)[:, :5])


@pytest.mark.parametrize("block", [37, 2**24])
def test_some_with_scores_of_their_own_stand_before_the_others(block, monkeypatch):
    """Scores of any size and many ties, within the few and behind them; cosines are exact."""
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", block)
    rng = np.random.default_rng(2)
    vectors = np.concatenate([np.eye(4, dtype=np.float32), -np.eye(4, dtype=np.float32)])
    queries, candidates = vectors[rng.integers(8, size=23)], vectors[rng.integers(8, size=12)]
    positive = np.stack([rng.permutation(12)[:2] for _ in range(23)]).astype(np.int32)
    positive[::2, 1:] = -1
    weight, extra = rng.integers(1, 4, 12), np.zeros_like(positive)
    sims = queries @ candidates.T
    ids = np.argsort(-sims, axis=1, kind="stable")[:, :4].astype(np.int32)
    score = 9 * integers(rng, 23, 4)
    wanted = sims - 100
    np.put_along_axis(wanted, ids, score, axis=1)
    found = rank_few((ids, score), queries, candidates, positive, weight=weight)
    assert found.rank.tolist() == slow_rank(wanted, positive, weight, extra)
    behind = [not set(p) & set(few) for p, few in zip(positive.tolist(), ids.tolist(), strict=True)]
    assert len(set(found.rank[behind].tolist())) > 3, "those that were left out are no one tie"


def test_a_tie_counts_against_the_positive():
    sims = np.array([[0.9, 0.5, 0.5]], np.float32)
    eye = np.eye(3, dtype=np.float32)
    assert rank(sims, eye, np.array([[1]], np.int32)).rank.tolist() == [3]
    assert rank(sims, eye, np.array([[0]], np.int32)).rank.tolist() == [1]
    np.testing.assert_allclose(rank(sims, eye, np.array([[0]], np.int32)).margin, [0.4], rtol=1e-6)


def test_constant_embeddings_have_the_worst_rank_not_the_best():
    ones = np.ones((5, 4), np.float32)
    assert rank(ones, ones, np.arange(5, dtype=np.int32)[:, None]).rank.tolist() == [5] * 5


def test_nan_similarities_rank_last():
    queries = np.full((1, 2), np.nan, np.float32)
    assert rank(queries, np.eye(2, dtype=np.float32), np.array([[0]], np.int32)).rank[0] == 2


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_neighbours_equal_a_stable_sort_for_any_block_size(block):
    rng = np.random.default_rng(2)
    queries, bank = integers(rng, 11, 3), integers(rng, 17, 3)
    scores, ids = nearest_neighbours(queries, bank, 6, block)
    sims = queries @ bank.T
    order = np.argsort(-sims, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(sims, order, axis=1))


def test_more_neighbours_than_the_bank_holds():
    scores, ids = nearest_neighbours(np.ones((2, 2), np.float32), np.ones((3, 2), np.float32), 9)
    assert ids.tolist() == [[0, 1, 2]] * 2 and scores.shape == (2, 3)


@pytest.mark.parametrize("block", [1, 100])
def test_sets_of_vectors_are_as_near_as_their_nearest(block, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", block)
    rng = np.random.default_rng(3)
    one, sets = integers(rng, 9, 3), integers(rng, 7, 4, 3)
    best = np.einsum("ind,jd->inj", sets, one).max(1)
    for queries, candidates, sims in ((sets, one, best), (one, sets, best.T)):
        positive = rng.integers(0, len(candidates), (len(queries), 1)).astype(np.int32)
        found = rank(queries, candidates, positive)
        ones, zeros = np.ones(len(candidates), int), np.zeros_like(positive)
        assert found.rank.tolist() == slow_rank(sims, positive, ones, zeros)
        scores, ids = nearest_neighbours(queries, candidates, 5, block)
        order = np.argsort(-sims, axis=1, kind="stable")[:, :5]
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_array_equal(scores, np.take_along_axis(sims, order, axis=1))
    np.testing.assert_array_equal(facing(one, one), one)
    own = np.einsum("ind,id->in", sets, one[:7]).argmax(1)
    np.testing.assert_array_equal(facing(sets, one[:7]), sets[np.arange(7), own])

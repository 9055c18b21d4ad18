"""Average precision, its VOC form and ROC area against loops over thresholds."""

import numpy as np
import pytest

from vlp_jax.evals.kits.scores import (
    average_precision,
    majority,
    per_class_recall,
    roc_auc,
    sampling_error,
    voc_average_precision,
)


def slow_curve(score, target):
    points = []
    for threshold in sorted(set(score.tolist()), reverse=True):
        chosen = score >= threshold
        points.append((target[chosen].sum() / target.sum(), target[chosen].mean()))
    return points


@pytest.mark.parametrize("seed", range(6))
def test_precision_equals_the_loop_with_ties(seed):
    rng = np.random.default_rng(seed)
    score, target = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.4
    points, before, area = slow_curve(score, target), 0.0, 0.0
    for recall, precision in points:
        area, before = area + (recall - before) * precision, recall
    assert average_precision(score, target) == pytest.approx(area)
    levels = [max((p for r, p in points if r >= t / 10 - 1e-9), default=0) for t in range(11)]
    assert voc_average_precision(score, target) == pytest.approx(np.mean(levels))


@pytest.mark.parametrize("seed", range(6))
def test_roc_area_is_the_share_of_ordered_pairs(seed):
    rng = np.random.default_rng(seed)
    score, target = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.4
    pairs = [(p > n) + (p == n) / 2 for p in score[target] for n in score[~target]]
    assert roc_auc(score, target) == pytest.approx(np.mean(pairs))


def test_constant_scores_give_the_base_rate():
    target = np.array([True, False, False, False])
    assert average_precision(np.ones(4), target) == 0.25
    assert roc_auc(np.ones(4), target) == 0.5


def test_recall_per_class_and_majority():
    label = np.array([0, 0, 2, 2, 2])
    recall, support = per_class_recall(np.array([1, 0, 1, 1, 0], bool), label, 4)
    np.testing.assert_allclose(recall, [0.5, 0, 2 / 3, 0])
    assert support.tolist() == [2, 0, 3, 0]
    assert majority(label) == 0.6


def test_sampling_error_is_the_spread_of_redrawn_hits():
    """Against 4,000 redrawn sets with Laplace's rates, classes of 1, 4 and 20 pictures."""
    label = np.repeat([0, 2, 3], [1, 4, 20])
    hit = np.concatenate([[True], [True, False, False, False], np.arange(20) < 15])
    share, mean = sampling_error(hit, label)
    assert share == pytest.approx(np.sqrt(17 / 25 * 8 / 25 / 25))
    rng = np.random.default_rng(0)
    rates, sizes = np.array([2 / 3, 2 / 6, 16 / 22]), [1, 4, 20]
    drawn = np.mean([rng.binomial(n, p, 4000) / n for n, p in zip(sizes, rates, strict=True)], 0)
    assert mean == pytest.approx(drawn.std(), rel=0.05)

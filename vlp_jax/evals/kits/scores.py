"""Scores that several evaluators share: per-class recall, average precision, area under the ROC
curve.

Sources: VOC 2007 development kit (11-point precision); Fawcett 2006 (ROC with ties). The file
exists so that the rule for ties is one: equal scores are treated as a group, never ordered by
position.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp_jax.evals.kits.ranking import rank


def per_class_recall(
    hit: np.ndarray, label: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Recall float[C] (0 where the class is absent) and support int[C] from hit: bool[N], label:
    int[N]."""
    support = np.bincount(label, minlength=num_classes)
    right = np.bincount(label[hit], minlength=num_classes)
    return right / np.maximum(support, 1), support


def majority(label: np.ndarray) -> float:
    """Accuracy of always answering the most frequent class: what a skewed test set gives away."""
    return float(np.bincount(label).max() / len(label))


def score(
    image: np.ndarray, weights: np.ndarray, label: np.ndarray, names: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and per-class table of single-label data; a tie with the right class counts against
    it."""
    ranked = rank(image, weights, label[:, None], k=2)
    hit = ranked.rank == 1
    recall, support = per_class_recall(hit, label, len(names))
    # the class taken for it: the nearest that is not the right one (they differ only in a tie)
    taken = np.where(ranked.top[:, 0] == label, ranked.top[:, -1], ranked.top[:, 0])
    table = []
    for c in np.flatnonzero(support):
        wrong = np.bincount(taken[(label == c) & ~hit], minlength=len(names))
        confused = names[int(wrong.argmax())] if wrong.any() else ""
        row = {"class": names[c], "images": int(support[c]), "recall": float(recall[c])}
        table.append(row | {"most often taken for": confused})
    metrics = {
        "top1": float(hit.mean()),
        "top5": float(np.mean(ranked.rank <= 5)),
        "mean_per_class": float(recall[support > 0].mean()),
        "chance_top1": 1 / len(names),
        "chance_top5": min(5, len(names)) / len(names),
        "majority_top1": majority(label),
    }
    return metrics, table


def sampling_error(hit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Standard errors of the share of hits and of the mean over classes, had other pictures of the
    same classes been drawn; hit: bool[N], label: int[N].

    Binomial. The rate of a class is taken as (hits + 1) / (n + 2), Laplace's: one picture, hit or
    missed, is not without error.
    """
    right, support = np.bincount(label[hit], minlength=label.max() + 1), np.bincount(label)
    right, support = right[support > 0], support[support > 0]
    rate = (right + 1) / (support + 2)
    variance = rate * (1 - rate) / support
    share = float(np.mean(hit))
    whole = float(np.sqrt(share * (1 - share) / len(hit)))
    return whole, float(np.sqrt(variance.sum()) / len(support))


def _curve(score: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative true and false positives at each distinct threshold, from the highest score
    down."""
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    true = np.cumsum(target[order])[last_of_tie]
    false = np.cumsum(~target[order])[last_of_tie]
    return true, false


def average_precision(score: np.ndarray, target: np.ndarray) -> float:
    """Sum over thresholds of precision times the gain in recall; score: float[N], target:
    bool[N]."""
    true, false = _curve(score, target)
    gain = np.diff(true, prepend=0) / true[-1]
    return float(np.sum(gain * true / (true + false)))


def voc_average_precision(score: np.ndarray, target: np.ndarray) -> float:
    """VOC 2007: mean over recall 0, 0.1, ... 1 of the best precision at that recall or more."""
    true, false = _curve(score, target)
    precision, recall = true / (true + false), true / true[-1]
    levels = np.arange(11) / 10
    return float(np.mean([precision[recall >= level - 1e-12].max(initial=0) for level in levels]))


def roc_auc(score: np.ndarray, target: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    true, false = _curve(score, target)
    true, false = np.append(0, true) / true[-1], np.append(0, false) / false[-1]
    return float(np.trapezoid(true, false))

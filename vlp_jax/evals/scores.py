"""Scores that several evaluators share: per-class recall, average precision, area under the ROC
curve.

Sources: VOC 2007 development kit (11-point precision); Fawcett 2006 (ROC with ties). The file
exists so that the rule for ties is one: equal scores are treated as a group, never ordered by
position.
"""

import numpy as np


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

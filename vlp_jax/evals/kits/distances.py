"""How far two sets of features lie apart: the figures of generated pictures, of features alone.

FID (arXiv:1706.08500), KID (arXiv:1801.01401), the Inception Score (arXiv:1606.03498), precision
and recall (arXiv:1904.06991), CMMD (arXiv:2401.09603), in the conventions of torch-fidelity 0.4
(seed, subsets, splits) and google-research/cmmd. The file exists so that the arithmetic is done
once, in float64, and can be held against those packages on the same features.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SEED = 2020  # of torch-fidelity, for subsets and splits
_ROWS = 2048  # of a block of a matrix between two sets


class Moments(NamedTuple):
    """Mean float64[D] and unbiased covariance float64[D, D] of features."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(rows: np.ndarray) -> Moments:
    """Those of float[N, D], N at least 2."""
    rows = rows.astype(np.float64)
    return Moments(rows.mean(0), np.cov(rows, rowvar=False).reshape(rows.shape[1], -1))


def frechet(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), not below 0 but for rounding.

    No matrix root is taken: with S = F F^T from the eigenvectors of S, the eigenvalues of S_a S_b
    are the squares of the singular values of F_a^T F_b, whose sum is the trace of the root.
    Eigenvalues below rounding (of sets with fewer pictures than features most are) count as 0.
    """
    root = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    apart = a.mean - b.mean
    return float(apart @ apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F float64[D, R] with S = F F^T, R the rank of S."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def polynomial_mmd(
    made: np.ndarray, real: np.ndarray, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """KID: mean and deviation over subsets of the unbiased squared MMD under (x y / D + 1)^3.

    Args:
      made, real: float[N, D], float[M, D].
      subsets: drawn without replacement in each, as torch-fidelity draws them.
      size: rows of a subset, at most as many as there are.
    """
    size = min(size, len(made), len(real))
    rng, found = np.random.RandomState(SEED), []
    for _ in range(subsets):
        x = made[rng.choice(len(made), size, replace=False)].astype(np.float64)
        y = real[rng.choice(len(real), size, replace=False)].astype(np.float64)
        xx, yy, xy = (_cubic(a, b) for a, b in ((x, x), (y, y), (x, y)))
        inside = (k.sum() - np.trace(k) for k in (xx, yy))
        found.append(sum(inside) / (size * (size - 1)) - 2 * xy.mean())
    return float(np.mean(found)), float(np.std(found))


def _cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def gaussian_mmd(made: np.ndarray, real: np.ndarray, sigma: float = 10.0) -> float:
    """CMMD: 1000 times the squared MMD, its diagonals included, under exp(-|x - y|^2 / 2 sigma^2);
    made, real: float[N, E], float[M, E] of unit norm."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        kernel = lambda square: np.exp(square / (-2 * sigma**2)).sum(1)  # noqa: E731
        return float(_by_rows(kernel, a, b).sum() / (len(a) * len(b)))

    return 1000 * (mean(made, made) + mean(real, real) - 2 * mean(made, real))


def precision_recall(
    made: np.ndarray, real: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
    """Share of made rows inside the manifold of real ones, and the other way round.

    A manifold is the union of balls about its rows that reach to their k-th nearest of the same
    set; k: at most what there is.
    """
    radius = {}
    for name, rows in (("made", made), ("real", real)):
        k = min(neighbours, len(rows) - 1)
        kth = lambda square, k=k: np.partition(square, k, axis=1)[:, k]  # noqa: E731
        radius[name] = _by_rows(kth, rows, rows)  # itself is the nearest
    inside = lambda balls: lambda square: (square <= balls).any(1)  # noqa: E731
    precision = _by_rows(inside(radius["real"]), made, real)
    recall = _by_rows(inside(radius["made"]), real, made)
    return float(precision.mean()), float(recall.mean())


def _by_rows(
    reduce: Callable[[np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """reduce(float64[n, M] squared distances to all of b) -> [n], over blocks of rows of a."""
    middle = b.mean(0, dtype=np.float64)  # smaller numbers round less
    a, b = (rows.astype(np.float64) - middle for rows in (a, b))
    squares = np.square(b).sum(1)
    found = []
    for start in range(0, len(a), _ROWS):
        some = a[start : start + _ROWS]
        square = np.square(some).sum(1)[:, None] + squares - 2 * some @ b.T
        found.append(reduce(np.maximum(square, 0)))
    return np.concatenate(found)


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and deviation over splits of exp(E KL(p(y | x) | p(y))); logits: float[N, C], shuffled
    as torch-fidelity does; splits: at most N."""
    logits = logits[np.random.RandomState(SEED).permutation(len(logits))].astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    splits, found = min(splits, len(log)), []
    for i in range(splits):
        part = log[i * len(log) // splits : (i + 1) * len(log) // splits]
        mean = np.exp(part).mean(0, keepdims=True)
        shared = np.log(np.maximum(mean, np.finfo(np.float64).tiny))
        found.append(np.exp((np.exp(part) * (part - shared)).sum(1).mean()))
    return float(np.mean(found)), float(np.std(found))

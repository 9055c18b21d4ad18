"""Figures of given features, by hand and by definition; tests/peers has torch-fidelity's."""

import numpy as np
import pytest

from vlp_jax.evals.kits import distances


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 6)), rng.normal(size=(50, 6)) * 0.7 + 0.3


def test_frechet_of_what_can_be_written_down():
    """Diagonal covariances: the squared distance of means and of standard deviations."""
    spread = np.array([[1.0, 2.0, 0.0], [3.0, 0.5, 0.0]])
    a, b = (distances.Moments(m, np.diag(s**2)) for m, s in zip(np.eye(3)[:2], spread, strict=True))
    assert distances.frechet(a, b) == pytest.approx(2 + np.square(spread[0] - spread[1]).sum())
    assert distances.frechet(a, a) == pytest.approx(0, abs=1e-12)


def test_frechet_of_fewer_rows_than_features():
    """Directions that a set does not fill count for nothing: the root's trace is the sum of the
    singular values of the centred sets' products."""
    rng = np.random.default_rng(1)
    rows = [30 * rng.normal(size=(n, 96)) for n in (10, 14)]
    a, b = ((r - r.mean(0)) / np.sqrt(len(r) - 1) for r in rows)
    apart = np.square(rows[0].mean(0) - rows[1].mean(0)).sum()
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    wanted = apart + np.square(a).sum() + np.square(b).sum() - 2 * root
    found = distances.frechet(*map(distances.moments, rows))
    assert found == pytest.approx(wanted, rel=1e-12)


def test_moments_are_unbiased(rows):
    found = distances.moments(rows[0].astype(np.float32))
    centred = rows[0] - rows[0].mean(0)
    np.testing.assert_allclose(found.mean, rows[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, centred.T @ centred / 39, atol=1e-6)


def test_kid_by_its_definition(rows):
    """One subset of everything: sums over pairs of different rows."""
    made, real = rows[0], rows[1][:40]
    kernel = lambda x, y: (x @ y / 6 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(40) for j in range(40)]
    inside = [np.mean([kernel(r[i], r[j]) for i, j in pairs if i != j]) for r in (made, real)]
    between = np.mean([kernel(made[i], real[j]) for i, j in pairs])
    found, deviation = distances.polynomial_mmd(made, real, subsets=2, size=1000)
    assert found == pytest.approx(sum(inside) - 2 * between) and deviation < 1e-12
    assert distances.polynomial_mmd(made, real, 5, 20)[1] > 0.01


def test_cmmd_by_its_definition(rows):
    unit = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in rows]
    mean = lambda a, b: np.mean(  # noqa: E731
        [[np.exp(-np.square(x - y).sum() / 200) for y in b] for x in a]
    )
    wanted = 1000 * (mean(unit[0], unit[0]) + mean(unit[1], unit[1]) - 2 * mean(*unit))
    assert distances.gaussian_mmd(*unit) == pytest.approx(wanted)


def test_precision_and_recall_on_a_line(monkeypatch):
    """Real rows at 0, 1, 2, 3 have radius 1 to their nearest; made ones at 0.5, 3.5, 9 radius 3, 3
    and 5.5: two of three lie in a real ball, and all four real ones in a made one."""
    made, real = np.array([[0.5], [3.5], [9.0]]), np.arange(4.0)[:, None]
    monkeypatch.setattr(distances, "_ROWS", 2)  # blocks, and a rest
    assert distances.precision_recall(made, real, 1) == (2 / 3, 1)
    assert distances.precision_recall(made + 1.6, real, 1) == (1 / 3, 1)
    assert distances.precision_recall(made + 9, real, 1) == (0, 0)
    assert distances.precision_recall(made[:2], real, 9) == (1, 1)  # as many as there are


def test_inception_score():
    """Certain and of four classes: 4. Undecided: 1. Certain of one class: 1."""
    sure = 100 * np.eye(4)[np.arange(40) % 4]
    assert distances.inception_score(sure, 1) == (pytest.approx(4), 0)
    assert distances.inception_score(np.zeros((40, 4)))[0] == pytest.approx(1)
    assert distances.inception_score(sure[::4])[0] == pytest.approx(1)
    mean, deviation = distances.inception_score(sure, 10)  # splits of four: not all have all
    assert 1 < mean < 4 and deviation > 0

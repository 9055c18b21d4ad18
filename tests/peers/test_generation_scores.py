"""Figures of given features beside torch-fidelity's, and FID beside a matrix root of scipy."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
pytest.importorskip("torch_fidelity", reason="live parity needs the `peers` extra")

import torch
from scipy import linalg
from torch_fidelity.metric_fid import (
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from vlp_jax.evals.kits import distances

CLOSE = dict(rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=[(600, 64), (500, 200), (90, 128)], ids=str)
def features(request):
    """Two sets of rows like pooled ReLU maps, of other means and spreads; the last ones are fewer
    than their features, so that their covariances are singular."""
    count, width = request.param
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(width, width)) / np.sqrt(width)
    rows = [rng.normal(size=(n, width)) @ mixing for n in (count, count + 50)]
    return [np.maximum(rows[0] + 0.3, 0).astype(np.float32), np.abs(rows[1]).astype(np.float32)]


def test_fid(features):
    ours = distances.frechet(*map(distances.moments, features))
    theirs = [fid_features_to_statistics(torch.from_numpy(rows)) for rows in features]
    found = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    np.testing.assert_allclose(ours, found, err_msg="torch-fidelity", **CLOSE)
    (m1, s1), (m2, s2) = map(distances.moments, features)
    root = np.real(linalg.sqrtm(s1 @ s2))
    wanted = (m1 - m2) @ (m1 - m2) + np.trace(s1 + s2 - 2 * root)
    np.testing.assert_allclose(ours, wanted, err_msg="scipy", **CLOSE)


def test_kid(features):
    size = min(map(len, features)) - 10
    how = dict(kid_subsets=20, kid_subset_size=size, rng_seed=distances.SEED, verbose=False)
    found = kid_features_to_metric(*map(torch.from_numpy, features), **how)
    wanted = [found[f"kernel_inception_distance_{name}"] for name in ("mean", "std")]
    np.testing.assert_allclose(distances.polynomial_mmd(*features, 20, size), wanted, **CLOSE)


def test_precision_and_recall(features):
    made = features[0] + 0.4  # so that neither share is 0 or 1
    for how in ({}, {"save_cpu_ram": True}):
        rows = [torch.from_numpy(rows).double() for rows in (made, features[1])]
        found = prc_features_to_metric(*rows, prc_neighborhood=3, verbose=False, **how)
        wanted = [found["precision"], found["recall"]]
        np.testing.assert_allclose(distances.precision_recall(made, features[1]), wanted, **CLOSE)


def test_inception_score(features):
    logits = 4 * features[0][:, :20]
    found = isc_features_to_metric(torch.from_numpy(logits))
    wanted = [found[f"inception_score_{name}"] for name in ("mean", "std")]
    np.testing.assert_allclose(distances.inception_score(logits), wanted, **CLOSE)

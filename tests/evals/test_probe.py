"""The probe reaches the optimum that a Newton solver in float64 finds, and sweeps as the paper
does."""

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.evals import probe
from vlp_jax.evals.base import make_evaluator
from vlp_jax.evals.probe import best_of, fit, fits, predict, split_validation, sweep


def log_loss(rows, label, weights, bias, l2):
    logits = rows @ weights + bias
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(label)), label].sum() + l2 / 2 * np.sum(weights**2)


def newton(rows, label, classes, l2, steps=60):
    """Damped Newton on (weights, bias) in float64; the bias is free, so least squares picks a
    step."""
    n, d = rows.shape
    x = np.concatenate([rows, np.ones((n, 1))], axis=1).astype(np.float64)
    ridge = np.kron(np.diag([l2] * d + [0.0]), np.eye(classes))
    params, hot = np.zeros((d + 1, classes)), np.eye(classes)[label]

    def value(p):
        return log_loss(rows.astype(np.float64), label, p[:-1], p[-1], l2)

    for _ in range(steps):
        logits = x @ params
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = (x.T @ (p - hot)).ravel() + ridge @ params.ravel()
        curvature = np.einsum("nc,ce->nce", p, np.eye(classes)) - np.einsum("nc,ne->nce", p, p)
        hessian = np.einsum("ni,nj,nce->icje", x, x, curvature).reshape(ridge.shape) + ridge
        step = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0].reshape(params.shape)
        size = 1.0
        while value(params - size * step) > value(params) and size > 1e-9:
            size /= 2
        params = params - size * step
    return params[:-1], params[-1]


def problem(kind, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(80, 5)) * [1, 2, 0.5, 1, 3] + [0, 30, -5, 0, 1]
    truth = rng.normal(size=(5, 3))
    noise = 0 if kind == "separable" else 6
    label = ((rows - rows.mean(0)) @ truth + noise * rng.normal(size=(80, 3))).argmax(axis=1)
    return rows.astype(np.float32), label


@pytest.mark.parametrize("kind", ["separable", "noisy"])
@pytest.mark.parametrize("l2", [1e-2, 1.0, 1e3])
def test_the_optimum_is_newtons(kind, l2):
    rows, label = problem(kind)
    fitted = fit(rows, label, 3, l2)
    weights, bias = newton(rows, label, 3, l2)
    best = log_loss(rows.astype(np.float64), label, weights, bias, l2)
    found = log_loss(rows.astype(np.float64), label, *map(np.float64, fitted[:2]), l2)
    assert found == pytest.approx(best, rel=1e-4)
    assert fitted.loss == pytest.approx(best / 80, rel=1e-4)
    assert fitted.gradient < 1e-5 and fitted.iterations < 1000
    np.testing.assert_allclose(fitted.weights, weights, atol=2e-3 * np.abs(weights).max())
    assert (predict(fitted, rows) == (rows @ weights + bias).argmax(axis=1)).mean() > 0.98


def test_the_penalty_does_not_see_how_the_features_are_shifted():
    rows, label = problem("noisy")
    plain, moved = fit(rows, label, 3, 1.0), fit(rows + 100, label, 3, 1.0)
    np.testing.assert_allclose(plain.weights, moved.weights, atol=1e-3)


def test_few_iterations_are_counted():
    assert fit(*problem("noisy"), 3, 1.0, iterations=2).iterations == 2


@pytest.mark.parametrize("peak", [-6.0, 0.375, 1.9, 6.0])
def test_the_sweep_halves_towards_the_peak_and_ends_at_an_eighth_of_a_decade(peak, monkeypatch):
    visited = []

    def fake_fits(rows, label, classes, penalties, iterations, start):
        visited.extend(np.log10(penalties))
        return penalties

    def fake_predict(l2, rows):  # accuracy falls linearly with the distance to the peak
        return np.arange(len(rows)) < 1200 * (1 - abs(np.log10(l2) - peak) / 20)

    monkeypatch.setattr(probe, "fits", fake_fits)
    monkeypatch.setattr(probe, "predict", fake_predict)
    parts = {"train": np.zeros((1, 1)), "val": np.zeros((1200, 1))}
    curve, fitted = sweep(parts, {"train": None, "val": np.ones(1200, int)}, 2, 10)
    best = max(curve, key=curve.get)
    assert np.log10(fitted) == pytest.approx(best)
    assert abs(best - peak) <= 1 / 16 + 1e-9
    np.testing.assert_allclose(visited[:7], [-6, -4, -2, 0, 2, 4, 6])
    assert len(visited) == len(set(np.round(visited, 6))) <= 15
    assert min(visited) >= -6.001 and max(visited) <= 6.001
    assert np.diff(sorted(curve)).min() == 0.125


def test_small_classes_decide_where_the_metric_is_the_mean_of_classes(monkeypatch):
    label = np.array([0] * 8 + [2] * 2)  # a strong penalty answers with the large class
    monkeypatch.setattr(probe, "fits", lambda rows, label, classes, l2s, iterations, start: l2s)
    monkeypatch.setattr(probe, "predict", lambda l2, rows: label * (l2 < 1) ^ (l2 < 1) * (rows < 3))
    parts, labels = {"train": np.zeros((1, 1)), "val": np.arange(10)}, {"train": None, "val": label}
    chosen = {metric: sweep(parts, labels, 3, 1, metric)[0] for metric in probe.METRICS}
    assert max(chosen["top1"].values()) == 0.8 and chosen["top1"][6.0] == 0.8
    best = max(chosen["mean_per_class"], key=chosen["mean_per_class"].get)
    assert best < 0 and chosen["mean_per_class"][best] == pytest.approx((5 / 8 + 1) / 2)
    with pytest.raises(UserError, match=r"probe\.metric='f1': choose top1 or mean_per_class"):
        probe.Probe(None, metric="f1")


def test_of_equal_scores_the_strongest_penalty_is_taken():
    assert best_of({-6.0: 0.5, -2.0: 0.7, 0.0: 0.7, 2.0: 0.7, 4.0: 0.6}) == 2.0
    flat = {float(point): 0.5 for point in probe.START}
    assert best_of(flat) == best_of(dict(reversed(flat.items()))) == 6.0


@pytest.mark.parametrize("l2", [0.1, 1e2])
def test_more_features_than_samples_have_the_same_optimum(l2):
    """12 samples of 60 features against Newton in the span, found by another way (QR)."""
    rng = np.random.default_rng(5)
    rows = (rng.normal(size=(12, 60)) * np.geomspace(3, 0.01, 60) + 5).astype(np.float32)
    label = rng.integers(0, 3, 12)
    fitted = fit(rows, label, 3, l2)
    basis = np.linalg.qr((rows - rows.mean(0)).astype(np.float64).T)[0]  # [60, 12]
    weights, bias = newton((rows - rows.mean(0)) @ basis, label, 3, l2)
    best = log_loss((rows - rows.mean(0)) @ basis, label, weights, bias, l2)
    weights = basis @ weights
    assert fitted.weights.shape == (60, 3)
    found = log_loss(rows.astype(np.float64), label, *map(np.float64, fitted[:2]), l2)
    assert found == pytest.approx(best, rel=1e-4)
    np.testing.assert_allclose(fitted.weights, weights, atol=2e-3 * np.abs(weights).max())
    assert fitted.loss == pytest.approx(best / 12, rel=1e-4)


def test_several_penalties_are_fitted_as_alone():
    rows, label = problem("noisy")
    for l2, fitted in zip((1e-2, 1e2), fits(rows, label, 3, [1e-2, 1e2]), strict=True):
        alone = fit(rows, label, 3, l2)
        np.testing.assert_allclose(fitted.weights, alone.weights, atol=1e-4)
        np.testing.assert_allclose(fitted.bias, alone.bias, atol=1e-3)
    assert fits(rows, label, 3, []) == []


def test_a_start_nearby_saves_iterations_and_changes_nothing():
    rows, label = problem("noisy")
    near, alone = fit(rows[:70], label[:70], 3, 2.0), fit(rows, label, 3, 1.0)
    (found,) = fits(rows, label, 3, [1.0], start=near)
    np.testing.assert_allclose(found.weights, alone.weights, atol=1e-3)
    (again,) = fits(rows, label, 3, [1.0], start=alone)
    assert again.iterations <= 3 < found.iterations <= alone.iterations


def test_axes_beyond_the_bound_are_left_as_they_are(monkeypatch):
    rows, label = problem("noisy")
    whole = fit(rows, label, 3, 1.0)
    monkeypatch.setattr(probe, "TURNED", 4)
    assert probe.turned(rows).axes is None
    (plain,) = fits(rows, label, 3, [1.0], start=fit(rows, label, 3, 1.0))
    np.testing.assert_allclose(plain.weights, whole.weights, atol=1e-3)


@pytest.mark.parametrize("width", [2, 9])
def test_rows_that_are_all_equal_give_the_shares_of_the_classes(width):
    fitted = fit(np.full((5, width), 3, np.float32), np.array([0, 0, 0, 1, 1]), 2, 1.0)
    logits = fitted.bias + 3 * fitted.weights.sum(axis=0)
    assert logits[0] - logits[1] == pytest.approx(np.log(1.5), abs=1e-3)


def test_validation_takes_a_fifth_of_every_class_in_whatever_order():
    classes = np.repeat([0, 1, 2, 3], [50, 20, 9, 1])
    content = np.random.default_rng(0).integers(1, 2**63, 80, np.uint64)
    found = []
    for order in (np.arange(80), np.argsort(np.arange(80) % 7, kind="stable")):
        rows, label = {"train": content[order]}, {"train": classes[order]}
        split_validation(rows, label, content[order], 0.2)
        known = dict(zip(content.tolist(), classes.tolist(), strict=True))
        for part in ("train", "val"):
            assert [known[c] for c in rows[part].tolist()] == label[part].tolist()
        found.append(set(rows["val"].tolist()))
        counts = np.bincount(label["val"], minlength=4)
        assert counts.sum() == 16 and (np.abs(counts - [10, 4, 1.8, 0]) < 1.5).all()
        assert counts[3] == 0  # the only one of its class is there to be learnt
    assert found[0] == found[1]
    with pytest.raises(UserError, match="2 samples are too few"):
        split_validation({"train": np.arange(2)}, {"train": np.arange(2)}, content[:2], 0.2)


def test_orders_of_the_same_pictures_give_the_same_score(memory_source, context):
    """Five classes in order, or taking turns: every fifth sample would be a single class."""
    greys = np.arange(250)
    noise = np.random.default_rng(1).normal(size=(256, 6)).astype(np.float32)

    def features(batch):
        grey = batch["image"][:, 0, 0, 0].astype(int)
        return noise[grey] + 1.5 * np.eye(6, dtype=np.float32)[grey // 50], batch["index"]

    found = []
    for order in (greys, greys.reshape(5, 50).T.ravel()):
        source = memory_source(order.tolist(), metas=[{"c": int(g) // 50} for g in order])
        cfg = {"train": source, "path": source, "label": "c", "limit": 120, "iterations": 50}
        found.append(make_evaluator("probe", cfg, context(64))({"features": features}))
        assert found[-1].protocol["val"] == 24
    numbers = [{key: r.metrics[key] for key in ("top1", "val_top1", "log10_l2")} for r in found]
    assert numbers[0] == numbers[1] and found[0].tables == found[1].tables
    assert found[0].metrics["majority_top1"] == 0.2 and 0.5 < numbers[0]["val_top1"] < 1
    share = found[0].metrics["top1"]
    assert found[0].metrics["top1_se"] == pytest.approx(np.sqrt(share * (1 - share) / 120))


def test_evaluator_end_to_end(memory_source, context):
    """Class = grey above 128, seen through noisy features: learnt; a separate val set is used."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(256, 4)).astype(np.float32)

    def features(batch):
        grey = batch["image"][:, 0, 0, 0].astype(int)
        rows = noise[grey].copy()
        rows[:, 0] += np.where(grey >= 128, 2.5, -2.5)
        return rows, batch["index"]

    def source(greys):
        return memory_source(greys, metas=[{"c": "hi" if g >= 128 else "lo"} for g in greys])

    greys = rng.permutation(256).tolist()
    cfg = {"train": source(greys[:150]), "path": source(greys[150:]), "label": "c"}
    result = make_evaluator("probe", cfg, context(batch_size=32))({"features": features})
    assert result.metrics["top1"] > 0.95 > result.metrics["majority_top1"]
    assert result.protocol | {"objective": ""} == {
        "train": 120, "val": 30, "path": 106, "objective": "",
    }  # fmt: skip
    cfg = cfg | {"val": source(greys[150:200])}
    result = make_evaluator("probe", cfg, context(batch_size=32))({"features": features})
    assert result.protocol["train"] == 150 and result.protocol["val"] == 50
    assert len(result.tables["sweep"]) <= 15

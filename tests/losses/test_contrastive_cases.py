"""Contrastive losses by hand: twins in a batch, hot temperatures, half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.losses.contrastive import sigmoid_contrastive, softmax_contrastive

EYE = np.eye(4, dtype=np.float32)
ZERO = jnp.float32(0)


def test_hand_computed_values():
    """Orthogonal pairs at scale 1: softmax ln(1 + 3/e); sigmoid by counting 4 + 12 terms / 4."""
    loss, _ = softmax_contrastive(EYE, EYE, ZERO)
    assert float(loss) == pytest.approx(np.log(1 + 3 / np.e), rel=1e-6)
    loss, _ = sigmoid_contrastive(EYE, EYE, ZERO, jnp.float32(-1))
    wanted = (4 * np.log1p(np.exp(0)) + 12 * np.log1p(np.exp(-1))) / 4
    assert float(loss) == pytest.approx(wanted, rel=1e-6)


def test_twins_in_a_batch_cost_ln_2_and_a_tie_is_no_hit():
    """A pair that occurs twice: its own twin is a negative, as in the papers."""
    twins = EYE[[0, 0, 1, 1]]
    loss, metrics = softmax_contrastive(twins, twins, jnp.float32(np.log(100)))
    assert float(loss) == pytest.approx(np.log(2), rel=1e-5)
    assert float(metrics["i2t_accuracy"]) == 0
    loss, _ = sigmoid_contrastive(twins, twins, jnp.float32(np.log(10)), jnp.float32(-10))
    logits = 10.0 * twins @ twins.T - 10
    sign = 2 * np.eye(4) - 1
    assert float(loss) == pytest.approx(np.log1p(np.exp(-sign * logits)).sum() / 4, rel=1e-5)


@pytest.mark.parametrize("scale", [np.log(100), 7.0])
def test_hot_temperatures_overflow_nowhere(scale):
    far = np.concatenate([EYE, -EYE])
    wrong = far[::-1].copy()
    for loss in (
        lambda x, y: softmax_contrastive(x, y, jnp.float32(scale))[0],
        lambda x, y: sigmoid_contrastive(x, y, jnp.float32(scale), jnp.float32(-10))[0],
    ):
        value, gradient = jax.value_and_grad(loss)(far, wrong)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        assert value > np.exp(scale) / 2, "a confident mistake costs about the scale"


def test_half_precision_rows_lose_no_more_than_their_rounding():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(8, 64)) / 8, jnp.bfloat16) for _ in range(2))
    run = jax.value_and_grad(lambda x, y: softmax_contrastive(x, y, jnp.float32(0))[0], (0, 1))
    (value, halves), (wanted, whole) = run(x, y), run(*(a.astype(jnp.float32) for a in (x, y)))
    assert value.dtype == jnp.float32 and halves[0].dtype == jnp.bfloat16
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)  # float32 sums of exact products
    for half, full in zip(halves, whole, strict=True):
        np.testing.assert_allclose(np.float32(half), full, atol=0.02 * np.abs(full).max())


def test_softmax_is_symmetric_and_sigmoid_too():
    rng = np.random.default_rng(1)
    x, y = np.float32(rng.normal(size=(2, 5, 6)))
    for loss in (
        lambda a, b: softmax_contrastive(a, b, ZERO),
        lambda a, b: sigmoid_contrastive(a, b, ZERO, jnp.float32(-2)),
    ):
        (one, first), (two, second) = loss(x, y), loss(y, x)
        assert float(one) == pytest.approx(float(two), rel=1e-6)
        assert float(first["i2t_accuracy"]) == float(second["t2i_accuracy"])

"""Both contrastive losses against float64 numpy, value and gradient, on one and eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from vlp_jax.losses.contrastive import sigmoid_contrastive, softmax_contrastive
from vlp_jax.parallel.mesh import BATCH_SPEC, make_mesh

B, E = 16, 8


def inputs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, B, E))
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    return unit(x), unit(y), np.log(20.0), -3.0


def softmax_oracle(x, y, scale, bias):
    del bias
    z = np.exp(scale) * x @ y.T
    rows = np.log(np.exp(z).sum(1)) - np.diag(z)
    columns = np.log(np.exp(z).sum(0)) - np.diag(z)
    return (rows.mean() + columns.mean()) / 2


def sigmoid_oracle(x, y, scale, bias):
    z = np.exp(scale) * x @ y.T + bias
    sign = 2 * np.eye(B) - 1
    return np.log1p(np.exp(-sign * z)).sum() / B


def numeric_gradient(oracle, arguments, h=1e-6):
    found = []
    for k, argument in enumerate(arguments):
        argument = np.asarray(argument, np.float64)
        gradient = np.zeros_like(argument)
        for i in np.ndindex(argument.shape):
            values = []
            for sign in (1, -1):
                moved = argument.copy()
                moved[i] += sign * h
                values.append(oracle(*arguments[:k], moved, *arguments[k + 1 :]))
            gradient[i] = (values[0] - values[1]) / (2 * h)
        found.append(gradient)
    return found


LOSSES = {
    "softmax": (softmax_oracle, lambda x, y, s, b: softmax_contrastive(x, y, s)[0] + 0 * b),
    "sigmoid": (sigmoid_oracle, lambda x, y, s, b: sigmoid_contrastive(x, y, s, b)[0]),
}


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient(name, devices):
    oracle, loss = LOSSES[name]
    arguments = inputs()
    mesh = make_mesh({"data": -1}, jax.devices()[:devices])
    split = NamedSharding(mesh, BATCH_SPEC)
    x, y = (jax.device_put(np.float32(a), split) for a in arguments[:2])
    with jax.set_mesh(mesh):
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
        value, gradient = run(x, y, jnp.float32(arguments[2]), jnp.float32(arguments[3]))
    assert value == pytest.approx(oracle(*arguments), rel=1e-6)
    for ours, exact in zip(gradient, numeric_gradient(oracle, arguments), strict=True):
        np.testing.assert_allclose(np.asarray(ours), exact, rtol=1e-6, atol=1e-6)


def test_one_and_eight_devices_agree():
    x, y, scale, bias = (np.float32(a) for a in inputs())
    for _, loss in LOSSES.values():
        values = []
        for devices in (1, 8):
            mesh = make_mesh({"data": -1}, jax.devices()[:devices])
            put = lambda a, mesh=mesh: jax.device_put(a, NamedSharding(mesh, BATCH_SPEC))  # noqa: E731
            values.append(jax.jit(jax.value_and_grad(loss))(put(x), put(y), scale, bias))
        assert values[0][0] == pytest.approx(float(values[1][0]), rel=1e-6)
        np.testing.assert_allclose(*(np.asarray(v[1]) for v in values), atol=1e-6)


def test_chance_is_ln_b_and_accuracy_counts_the_diagonal():
    same = np.ones((B, E), np.float32) / np.sqrt(E)
    value, metrics = softmax_contrastive(same, same, jnp.float32(2.0))
    assert value == pytest.approx(np.log(B), rel=1e-6)
    x = np.eye(B, dtype=np.float32)
    y = x[[1, 0, *range(2, B)]]
    _, metrics = softmax_contrastive(x, y, jnp.float32(2.0))
    assert metrics["i2t_accuracy"] == pytest.approx((B - 2) / B)
    assert metrics["t2i_accuracy"] == pytest.approx((B - 2) / B)

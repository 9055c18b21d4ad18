"""Precision and layer layout of whole dual encoders: what dtype, scan and remat may change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_batch, tiny_method

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key

B = 4
BATCH = jax.tree.map(jnp.asarray, tiny_batch(B))
DROP = dict(image={"dropout": 0.1, "patch_dropout": 0.5}, text={"dropout": 0.1})


@pytest.fixture(scope="module")
def params():
    return jax.jit(tiny_method().init)(jax.random.key(0))[0]


def function(method, name):
    """f(params, batch) of what a method without extra state can do."""
    run = method.functions()[name]
    return lambda params, batch: run(Vars(params, {}), Inputs.of(batch))


def run(params, **changes):
    """(representations, {path: gradient}) with dropout on."""
    method, keys = tiny_method("clip", **DROP, **changes), example_keys(step_key(0, 0), B)

    def loss(params):
        v, x = Vars(params, {}), Inputs.of(BATCH, keys, train=True)
        rows, _ = method.encode(v, x)
        return method.objective(v, rows, x)[0], rows

    (_, rows), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return rows, flatten(gradient)


@pytest.fixture(scope="module")
def unrolled(params):
    return run(params)


@pytest.mark.parametrize("changes", [{"remat": "full"}, {"remat": "dots"}], ids=str)
def test_loops_and_recomputation_change_no_number(params, unrolled, changes):
    rows, gradient = run(params, **changes)
    for side in ("image", "text"):
        np.testing.assert_allclose(rows[side], unrolled[0][side], atol=1e-6)
    for path, exact in unrolled[1].items():
        limit = 1e-5 * max(1e-2, np.abs(exact).max())
        np.testing.assert_allclose(gradient[path], exact, atol=limit, err_msg=path)


def test_scanned_towers_equal_unrolled_ones(params):
    method = tiny_method()
    looped = dataclasses.replace(method, unroll=False)
    for name in ("embed_image", "embed_text"):
        one, two = (np.asarray(jax.jit(function(m, name))(params, BATCH)) for m in (method, looped))
        np.testing.assert_allclose(one, two, atol=1e-6)
    for m, unroll in ((method, 2), (looped, 1)):  # or the same program was compared with itself
        assert f"unroll={unroll}" in str(jax.make_jaxpr(function(m, name))(params, BATCH))


def test_bfloat16_keeps_parameters_gradients_and_outputs_in_float32(params):
    method = tiny_method("clip", dtype="bfloat16")
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    for name in ("embed_image", "embed_text", "features"):
        low = jax.jit(function(method, name))(params, BATCH)
        high = jax.jit(function(tiny_method(), name))(params, BATCH)
        assert low.dtype == jnp.float32, name
        assert 1e-6 < np.abs(low - high).max() < 0.1, name
    loss = lambda p: method.loss(Vars(p, {}), Inputs.of(BATCH))[0]  # noqa: E731
    value, gradient = jax.eval_shape(jax.value_and_grad(loss), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((value, gradient))} == {jnp.dtype("float32")}


def test_pictures_of_another_size_are_refused_before_anything_runs(params):
    small = {**BATCH, "image": BATCH["image"][:, :16, :16]}
    method = tiny_method()
    with pytest.raises(UserError, match=r"pictures are 16x16 .* image_size=32"):
        jax.eval_shape(function(method, "embed_image"), params, small)

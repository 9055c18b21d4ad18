"""Micro-batches on eight devices: the same loss and gradient as the whole batch on one.

The file exists because both splits of a batch, over time and over devices, must not show.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from tiny import tiny_batch, tiny_method

from vlp_jax.core.inputs import Inputs
from vlp_jax.core.pytree import flatten, partition
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.parallel.mesh import batch_sharding, make_mesh
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train.gradient import loss_and_gradient

B = 16
TOWER = {"dropout": 0.1, "num_layers": 1}
RANDOM = dict(image={**TOWER, "patch_dropout": 0.5}, text=TOWER)


@pytest.fixture(scope="module")
def made():
    method = tiny_method("clip", **RANDOM)
    batch = jax.tree.map(jnp.asarray, tiny_batch(B))
    return method, jax.jit(method.init)(jax.random.key(0))[0], batch


def run(made, accumulate, axes=None, preset="replicated", frozen=()):
    """(loss, {path: gradient}) on one device, or on the eight of a mesh."""
    method, params, batch = made
    mesh = make_mesh(axes or {}, None if axes else jax.devices()[:1])
    keys = example_keys(step_key(0, 3), B)
    batch, keys = jax.device_put((batch, keys), batch_sharding(mesh))
    params = jax.device_put(params, param_sharding(params, mesh, preset))
    locked, trained = partition(params, frozen)

    def fn(trained, locked, batch, keys):
        x = Inputs.of(batch, keys, step=3, train=True)
        return loss_and_gradient(method, trained, locked, {}, x, accumulate)

    with jax.set_mesh(mesh):
        loss, _, gradient = jax.jit(fn)(trained, locked, batch, keys)
    return float(loss), {path: np.asarray(g) for path, g in flatten(gradient).items()}


def assert_same(found, wanted):
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert found[1].keys() == wanted[1].keys()
    scale = max(np.abs(g).max() for g in wanted[1].values())
    for path, exact in wanted[1].items():
        np.testing.assert_allclose(found[1][path], exact, atol=1e-5 * scale, err_msg=path)


def test_two_micro_batches_on_eight_devices(made):
    axes = {"data": 2, "fsdp": 2, "tensor": 2}
    assert_same(run(made, 2, axes, "fsdp_tensor"), run(made, 1))


def test_a_frozen_tower_gets_no_gradient_and_changes_no_other(made):
    quiet = tiny_method("clip", image={"num_layers": 1}, text=TOWER)  # as the frozen tower runs
    whole, part = run((quiet, *made[1:]), 1), run(made, 4, frozen=("image/.*",))
    assert not any(path.startswith("image/") for path in part[1])
    kept = {path: g for path, g in whole[1].items() if not path.startswith("image/")}
    assert_same(part, (whole[0], kept))


@pytest.mark.parametrize("name", ["tokens", "queue", "partners"])
def test_shares_and_state_are_the_same_on_one_and_eight_devices(name):
    method, batch = getattr(toys, name.title())(), getattr(toys, f"{name}_batch")()
    whole = toys.gradient(method, batch, 1)
    mesh = make_mesh({"data": 4, "fsdp": 2})
    for count in (1, 2):
        toys.check_equal(toys.gradient(method, batch, count, mesh=mesh), whole)

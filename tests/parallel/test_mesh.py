"""Meshes fit the devices or are refused; batches divide or are refused."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from vlp_jax.core.errors import UserError
from vlp_jax.parallel.constrain import constrain_batch
from vlp_jax.parallel.mesh import AXES, batch_sharding, check_batch, make_mesh


@pytest.mark.parametrize(
    "shape, sizes",
    [
        ({}, None),
        ({"data": -1}, (8, 1, 1)),
        ({"data": 2, "fsdp": -1}, (2, 4, 1)),
        ({"data": -1, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"tensor": 8}, (1, 1, 8)),
    ],
)
def test_sizes(shape, sizes):
    if sizes is None:
        assert make_mesh(shape, jax.devices()[:1]).size == 1
        return
    mesh = make_mesh(shape)
    assert mesh.axis_names == AXES and mesh.devices.shape == sizes
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"dta": 8}, "mesh.dta: unknown axis; did you mean 'data'"),
        ({"data": 3}, "does not cover 8 devices"),
        ({"data": -1, "fsdp": 3}, "does not cover 8 devices"),
        ({"data": -1, "fsdp": -1}, "at most one may be -1"),
        ({"data": 0}, "must be positive"),
        ({"data": -2, "fsdp": -4}, "must be positive"),
        ({"data": 8.5}, r"mesh\.data is 8\.5, it must be of type int"),
    ],
)
def test_refusals(shape, message):
    with pytest.raises(UserError, match=message):
        make_mesh(shape)


def test_batches_split_over_data_and_fsdp_but_not_tensor():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    x = jax.device_put(jnp.arange(8.0), batch_sharding(mesh))
    assert {shard.data.shape for shard in x.addressable_shards} == {(2,)}
    check_batch(8, 2, mesh)
    for batch, accumulate, example in ((6, 1, 8), (8, 4, 16), (0, 1, 4), (-8, 1, 4)):
        said = f"batch_size={batch} must be a positive multiple.*, for example {example}$"
        with pytest.raises(UserError, match=said):
            check_batch(batch, accumulate, mesh)
    with pytest.raises(UserError, match="accumulate=0: must be at least 1"):
        check_batch(8, 0, mesh)


def test_constraint_pins_the_batch_axis_and_only_under_a_mesh():
    x = jnp.ones((8, 3))
    assert constrain_batch(x) is x
    mesh = make_mesh({"data": 4, "fsdp": 2})
    with jax.set_mesh(mesh):
        y = jax.jit(constrain_batch)(x)
    assert {shard.data.shape for shard in y.addressable_shards} == {(1, 3)}
    other = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(other):
        assert constrain_batch(x) is x
    assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"))

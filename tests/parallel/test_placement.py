"""State is born in pieces: what each of eight devices really holds, not what a spec says."""

import math

import jax
import numpy as np
import pytest
from tiny import tiny_method

from vlp_jax.core.pytree import flatten
from vlp_jax.optim.optimizer import make_optimizer
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train.state import Recipe, init_state

MESHES = {
    "replicated": {"data": 8},
    "fsdp": {"fsdp": 8},
    "fsdp_tensor": {"data": 2, "fsdp": 2, "tensor": 2},
}


def born(preset, axes):
    """A fresh state on a mesh, {path: array}."""
    tower = {"num_layers": 1}
    method, tx = tiny_method("clip", image=tower, text=tower), make_optimizer({"name": "adamw"})
    init = lambda: init_state(method, tx, Recipe(0, 8)).state  # noqa: E731
    placed = param_sharding(jax.eval_shape(init), make_mesh(axes), preset)
    return flatten(jax.jit(init, out_shardings=placed)())


@pytest.fixture(scope="module")
def states():
    return {preset: born(preset, axes) for preset, axes in MESHES.items()}


def held(leaf):
    """Scalars that each device holds; all devices hold the same number."""
    (shape,) = {shard.data.shape for shard in leaf.addressable_shards}
    assert len(leaf.addressable_shards) == 8
    return math.prod(shape)


def test_fsdp_leaves_an_eighth_of_every_large_leaf_on_each_device(states):
    for path, leaf in states["fsdp"].items():
        cut = any(n % 8 == 0 for n in leaf.shape)
        assert held(leaf) == leaf.size // (8 if cut else 1), path
    assert all(held(leaf) == leaf.size for leaf in states["replicated"].values())


def test_moments_are_cut_as_their_parameters(states):
    for preset in ("fsdp", "fsdp_tensor"):
        state = states[preset]
        for path in (path for path in state if path.startswith("params/")):
            moment = next(p for p in state if "/mu/" in p and p.endswith(path[len("params") :]))
            assert state[moment].sharding == state[path].sharding, path


def test_heads_lie_on_the_tensor_axis(states):
    qkv = states["fsdp_tensor"]["params/text/blocks/attn/qkv/kernel"]
    heads = qkv.shape.index(2, 1)  # two heads of width 32 in a width of 64
    assert qkv.addressable_shards[0].data.shape[heads] == 1
    assert held(qkv) == qkv.size // 4  # tensor x fsdp; the data axis holds copies


def test_every_placement_starts_from_the_same_numbers(states):
    for path, leaf in states["replicated"].items():
        for preset in ("fsdp", "fsdp_tensor"):
            np.testing.assert_allclose(states[preset][path], leaf, atol=1e-7, err_msg=path)

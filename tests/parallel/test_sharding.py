"""The presets cover every leaf, cut what they promise to cut, and leave the rest whole."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny import tiny_method

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.interop import weights_file
from vlp_jax.interop.tensors import Tensor
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.clip import clip_arch
from vlp_jax.optim.optimizer import DIRECTIONS, make_optimizer
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.parallel.sharding import PRESETS, param_sharding, place, put
from vlp_jax.parallel.widening import options_for
from vlp_jax.train.state import Recipe, init_state


def specs(shapes, preset, **axes):
    mesh = make_mesh(axes)
    sharding = param_sharding(shapes, mesh, preset)
    return {path: s.spec for path, s in flatten(sharding).items()}


@pytest.fixture(scope="module")
def shapes():
    method = tiny_method("siglip", image={"pool": "map"})
    return jax.eval_shape(method.init, jax.random.key(0))[0]


def test_replicated_keeps_every_leaf_whole(shapes):
    assert set(specs(shapes, "replicated", data=-1).values()) == {P()}


def test_fsdp_cuts_the_largest_axis_that_divides(shapes):
    found = specs(shapes, "fsdp", data=2, fsdp=4)
    assert found["image/blocks/mlp/fc1/kernel"] == P(None, None, "fsdp")  # [2, 64, 256]
    assert found["text/token_embed/embedding"] == P(None, "fsdp")  # [259, 64]: 259 is odd
    assert found["logit_scale"] == P()
    whole = [path for path, spec in found.items() if "fsdp" not in spec]
    assert set(whole) == {"logit_scale", "logit_bias"}
    assert not any("fsdp" in spec for spec in specs(shapes, "fsdp", data=-1).values())


def test_fsdp_tensor_cuts_heads_hidden_units_and_vocabulary(shapes):
    found = specs(shapes, "fsdp_tensor", data=2, fsdp=2, tensor=2)
    assert found["image/blocks/attn/qkv/kernel"] == P(None, "fsdp", "tensor", None, None)
    assert found["image/blocks/attn/qkv/bias"][1] == "tensor"
    assert found["image/blocks/attn/out/kernel"] == P(None, "tensor", None, "fsdp")
    assert found["image/blocks/mlp/fc1/kernel"] == P(None, "fsdp", "tensor")
    assert found["image/blocks/mlp/fc1/bias"][-1] == "tensor"
    assert found["image/blocks/mlp/fc2/kernel"] == P(None, "tensor", "fsdp")
    assert found["image/pool/attn/query/kernel"][1] == "tensor"
    assert found["image/pool/attn/key_value/kernel"][1] == "tensor"
    assert found["text/token_embed/embedding"] == P(None, "fsdp")  # 259 rows do not divide
    assert "tensor" not in found["image/pos_embed"]
    size = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    even = {"token_embed": {"embedding": size(260, 64)}}
    for name in ("decode_attn", "cross_attn"):  # of a MED
        even[name] = {"out": {"kernel": size(2, 4, 16, 64)}, "query": {"bias": size(2, 4, 16)}}
    found = specs({"text": even}, "fsdp_tensor", data=2, fsdp=2, tensor=2)
    assert found.pop("text/token_embed/embedding") == P("tensor", "fsdp")
    assert len(found) == 4 and {spec[1] for spec in found.values()} == {"tensor"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_optimiser_state_lies_where_its_parameters_lie(preset, name):
    method, tx = tiny_method(), make_optimizer({"name": name})
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    shapes = jax.eval_shape(lambda: init_state(method, tx, Recipe(0, 8, ema_decay=0.9)).state)
    sharding = param_sharding(shapes, mesh, preset)
    assert jax.tree.structure(sharding) == jax.tree.structure(shapes)
    params, state = flatten(sharding["params"]), flatten(shapes["params"])
    for part in ("opt", "ema"):
        leaves, sizes = flatten(sharding[part]), flatten(shapes[part])
        for path, placed in leaves.items():
            owner = next((p for p in params if path.endswith(p)), None)
            if owner and sizes[path].shape == state[owner].shape:
                assert placed.spec == params[owner].spec, path


def test_every_released_size_is_covered_and_cut():
    mesh = make_mesh({"fsdp": 8})
    for name in ("RN50", "ViT-H-14", "ViT-B-16-SigLIP"):
        method = make_method({"name": "clip", **clip_arch(name)})
        shapes, _ = jax.eval_shape(method.init, jax.random.key(0))
        local = 0
        for leaf, placed in zip(
            jax.tree.leaves(shapes),
            jax.tree.leaves(param_sharding(shapes, mesh, "fsdp")),
            strict=True,
        ):
            local += math.prod(placed.shard_shape(leaf.shape))
        total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert local < 1.02 * total / 8, name


def test_unknown_presets_are_refused(shapes):
    with pytest.raises(UserError, match="sharding: unknown preset 'fsdpp'; did you mean 'fsdp'"):
        specs(shapes, "fsdpp", data=-1)


class Mapped:
    """A file mapped into memory: it says how much of it was read at a time."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.read = values, values.shape, values.dtype, []

    def __getitem__(self, index):
        if index is Ellipsis:  # opened
            return self
        found = self.values[index]
        self.read.append(found.size)
        return found


def test_an_array_of_the_host_is_read_shard_by_shard():
    leaf, mesh = Mapped(np.arange(64.0, dtype=np.float32).reshape(16, 4)), make_mesh({"fsdp": 8})
    found = place({"w": leaf}, param_sharding({"w": leaf}, mesh, "fsdp"))["w"]
    assert found.sharding.spec == P("fsdp", None) and max(leaf.read) == 8
    np.testing.assert_array_equal(found, leaf.values)
    like = jax.ShapeDtypeStruct((16, 4), jnp.bfloat16, sharding=found.sharding)
    for given in (leaf, found):
        half = put(given, like)
        assert half.dtype == jnp.bfloat16 and half.sharding == found.sharding
        np.testing.assert_array_equal(half, leaf.values)


def test_a_tensor_of_a_file_is_read_shard_by_shard(tmp_path, monkeypatch):
    """Each device asks for its slice alone; the values and bf16 are those of the file."""
    monkeypatch.setattr(weights_file, "MAPPED", 0)
    array = np.arange(4 * 32, dtype=np.float32).reshape(4, 32).astype(jnp.bfloat16)
    weights_file.write_safetensors(str(tmp_path / "x"), {"w": array})
    tensor = weights_file.read_safetensors(str(tmp_path / "x"))["w"]
    opened = Mapped(tensor.read())
    told = Tensor(tensor.shape, tensor.code, lambda: opened)
    where = param_sharding({"w": told}, make_mesh({"fsdp": 8}), "fsdp")
    found = place({"w": told}, where)["w"]
    assert found.dtype == jnp.bfloat16 and opened.read == [4 * 4] * 8
    np.testing.assert_array_equal(found, array)


def test_a_stack_in_bf16_is_widened_a_layer_at_a_time():
    """On a CPU, which computes in float32: 2 MB of temporaries would hold the whole stack."""
    shapes = {"w": jax.ShapeDtypeStruct((32, 128, 128), jnp.bfloat16)}
    assert options_for(jax.tree.map(lambda x: x.update(dtype=jnp.float32), shapes)) == {}

    def run(params, x):
        return jax.lax.scan(lambda x, w: (x @ w.astype(x.dtype), None), x, params["w"])[0]

    x = jax.ShapeDtypeStruct((4, 128), jnp.float32)
    lowered = jax.jit(run, compiler_options=options_for(shapes)).lower(shapes, x)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 4e5

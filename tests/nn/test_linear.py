"""Adapters: their thin products are the folded kernel's, in every layer that can have one, and
nothing at all where b is zero.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core import adapters
from vlp_jax.core.adapters import Adapter, Sides
from vlp_jax.core.pytree import flatten, map_with_path, merge, unflatten
from vlp_jax.models.unet import Condition, UNet, reads
from vlp_jax.nn.attention import CrossAttention, Project
from vlp_jax.nn.linear import adapted, linears
from vlp_jax.nn.transformer import StackConfig, run_blocks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 6)).astype(np.float32)
MAP = RNG.normal(size=(2, 5, 6, 3)).astype(np.float32)
TINY = UNet(widths=(4, 8), depths=(0, 2), heads=(2, 2), res_blocks=1, groups=2)


def fresh(net, inputs, rank=2):
    """Adapters of every layer of a network, all leaves random."""
    shapes = {path: its.adapter(rank) for path, its in linears(net, inputs).items()}
    flat = {
        leaf: RNG.normal(size=shape).astype(np.float32)
        for path, its in shapes.items()
        for leaf, shape in zip(adapters.names(path), its, strict=True)
    }
    return shapes, unflatten(flat)


def zeroed(lora):
    """The same at its start."""
    return map_with_path(lambda path, x: 0 * x if path.endswith(adapters.B) else x, lora)


def weights(net, inputs):
    """Random weights, drawn here, which compiles nothing."""
    made = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    fill = lambda x: (RNG.normal(size=x.shape) / 3).astype(np.float32)  # noqa: E731
    return jax.tree.map(fill, made)


def run(net, params, *inputs):
    with adapted(params):
        return net.apply({"params": params}, *inputs)


LAYERS = {
    "dense": (nn.Dense(4), X, Sides(1)),
    "conv": (nn.Conv(4, (3, 3), (2, 2), padding=((1, 1), (0, 1))), MAP, Sides(3)),
    "conv1": (nn.Conv(4, (1, 1), use_bias=False), MAP, Sides(3)),
    "heads": (Project((3, 4)), X, Sides(1)),
    "gated": (Project((2, 4)), X, Sides(1)),
    "fused": (Project((4, 3, 2)), X, Sides(1, 3)),
    "two": (Project((2, 2, 5)), X, Sides(1, 2)),
    "out": (Project((7,), axes=2), X, Sides(2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_thin_products_are_the_folded_kernel(name):
    net, x, sides = LAYERS[name]
    (layer,) = linears(net, (x,)).values()
    assert (layer.sides, layer.stack) == (sides, 0)
    params = weights(net, (x,))
    shapes, lora = fresh(net, (x,))
    assert adapters.kernel_shape(shapes["kernel"]) == params["kernel"].shape
    base = run(net, params, x)
    found, folded = run(net, merge(params, lora), x), adapters.fold(merge(params, lora))
    assert folded.keys() == params.keys() and np.abs(found - base).max() > 0.1
    np.testing.assert_allclose(found, run(net, folded, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(run(net, merge(params, zeroed(lora)), x), base)


def test_maps_beside_each_other_have_adapters_of_their_own():
    """Queries of an adapter for queries alone; by hand: x a scale b of the second of three maps."""
    net = Project((4, 3, 2), use_bias=False)
    params, (_, lora) = weights(net, (X,)), fresh(net, (X,))
    scale = lora["lora_scale"] * np.float32([[0], [1], [0]])
    moved = run(net, merge(params, lora | {"lora_scale": scale}), X) - run(net, params, X)
    h = X @ lora["lora_a"][:, 1] * scale[1]
    wanted = np.einsum("btr,rhk->bthk", h, lora["lora_b"][:, :, 1])
    np.testing.assert_allclose(moved[..., 1, :], wanted, atol=1e-5)
    assert np.abs(moved[..., [0, 2], :]).max() < 1e-6


def test_what_can_have_none():
    class Others(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(3, (3, 3), feature_group_count=3, name="grouped")(x)
            x = nn.GroupNorm(1, name="norm")(x)
            return nn.Dense(2, name="known")(x) + nn.Embed(4, 2, name="embed")(jnp.zeros(1, int))

    assert list(linears(Others(), (MAP,))) == ["known/kernel"]


class Stack(nn.Module):
    config: StackConfig

    @nn.compact
    def __call__(self, x):
        return run_blocks(self.config, x)


@pytest.mark.parametrize("how", [{"remat": "full"}, {"unroll": True}], ids=str)
def test_stacked_layers(how):
    """Every layer its own adapter, in scans and rematerialised; gradients reach them all."""
    net = Stack(StackConfig(width=6, num_layers=3, num_heads=2, hidden=8, init="linear", **how))
    params, (shapes, lora) = weights(net, (X,)), fresh(net, (X,))
    assert shapes["blocks/attn/qkv/kernel"] == Adapter((3, 6, 3, 2), (3, 2, 2, 3, 3), (3, 3, 2))

    def loss(lora, folded):
        whole = merge(params, lora)
        return jnp.square(run(net, adapters.fold(whole) if folded else whole, X)).mean()

    slopes = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    one, two = (slopes(lora, folded) for folded in (False, True))
    assert one[0] == pytest.approx(float(two[0]), rel=1e-4)
    for path, slope in flatten(one[1]).items():
        if path.endswith(adapters.SCALE):
            assert not slope.any()
            continue
        other = flatten(two[1])[path]
        assert (np.abs(slope).reshape(3, -1).max(1) > 1e-5).all(), path
        np.testing.assert_allclose(slope, other, atol=1e-4 * np.abs(other).max(), err_msg=path)


def test_a_whole_unet():
    """At its start bit for bit the base; folded to rounding; two adapters are one of both ranks."""
    given = Condition(context=RNG.normal(size=(2, 3, 6)).astype(np.float32))
    inputs = RNG.normal(size=(2, 4, 4, 4)).astype(np.float32), np.float32([1, 9]), given
    params, (shapes, lora) = weights(TINY, reads(TINY, 6)), fresh(TINY, reads(TINY, 6))
    lora = jax.tree.map(lambda x: x * np.float32(0.2), lora)
    assert {"conv_in/kernel", "time_embed/fc1/kernel"} < shapes.keys()
    assert shapes["up0_attn0/blocks/cross_attn/key_value/kernel"].scale == (2, 2, 2)
    step = jax.jit(lambda params: run(TINY, params, *inputs))
    base, zero = step(params), step(merge(params, zeroed(lora)))
    np.testing.assert_array_equal(zero, base)
    found, folded = step(merge(params, lora)), step(adapters.fold(merge(params, lora), np))
    assert np.abs(found - base).max() > 0.01
    np.testing.assert_allclose(found, folded, atol=2e-6 * np.abs(base).max())
    flat = flatten(lora)
    for kernel, its in adapters.adapters(flat):
        twice = adapters.product(adapters.joined(its, its))
        np.testing.assert_allclose(twice, 2 * adapters.product(its), atol=1e-5, err_msg=kernel)


def test_half_precision_is_the_layers_own():
    """Products run in the layer's dtype; adapters stay float32."""
    net = CrossAttention(2, 3, 6, dtype=jnp.bfloat16)
    params, (_, lora) = weights(net, (X, X)), fresh(net, (X, X))
    out = run(net, merge(params, lora), X, X)
    assert out.dtype == jnp.bfloat16
    wide = run(net.clone(dtype=jnp.float32), merge(params, lora), X, X)
    assert 0 < np.abs(np.float32(out) - wide).max() < 0.05 * np.abs(wide).max()

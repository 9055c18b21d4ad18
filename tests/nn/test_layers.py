"""Patches, activations, attention, initialisers: each against a plain formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_method

from vlp_jax.core.errors import UserError
from vlp_jax.nn import attention
from vlp_jax.nn.attention import CrossAttention, attend
from vlp_jax.nn.init import block_init
from vlp_jax.nn.patches import PatchEmbed, PatchStem
from vlp_jax.nn.precision import ACTIVATIONS

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bias", [False, True])
def test_patch_embedding_is_the_strided_convolution(bias):
    images = RNG.normal(size=(2, 12, 8, 3)).astype(np.float32)
    embed = PatchEmbed(5, 4, bias)
    params = embed.init(jax.random.key(0), images)["params"]
    if bias:
        params = {**params, "bias": jnp.arange(5.0)}
    wanted = jax.lax.conv_general_dilated(
        images, params["kernel"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(2, 6, 5)
    wanted = wanted + params.get("bias", 0)
    np.testing.assert_allclose(embed.apply({"params": params}, images), wanted, atol=1e-5)


def test_patch_size_must_divide():
    with pytest.raises(UserError, match="10x8 is not a multiple of patch_size 4"):
        PatchEmbed(5, 4).init(jax.random.key(0), np.zeros((1, 10, 8, 3), np.float32))


def test_stem_is_strided_convolutions_with_norm_and_gelu_and_sees_no_neighbour():
    images = RNG.normal(size=(2, 16, 24, 3)).astype(np.float32)
    stem = PatchStem(6, (4, 2))
    start = stem.init(jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda a: a + RNG.normal(size=a.shape).astype(np.float32), start)
    wanted = images
    for i, side in enumerate((4, 2)):
        layer, norm = params[f"layer_{i}"], params[f"norm_{i}"]
        numbers = ("NHWC", "HWIO", "NHWC")
        wanted = jax.lax.conv_general_dilated(
            wanted, layer["kernel"], (side, side), "VALID", dimension_numbers=numbers
        )
        wanted = np.asarray(wanted + layer["bias"], np.float64)
        wanted = (wanted - wanted.mean(-1, keepdims=True)) / np.sqrt(
            wanted.var(-1, keepdims=True) + 1e-6
        )
        wanted = wanted * norm["scale"] + norm["bias"]
        wanted = wanted * 0.5 * (1 + np.vectorize(math.erf)(wanted / math.sqrt(2)))
        wanted = wanted.astype(np.float32)
    found = stem.apply({"params": params}, images)
    assert found.shape == (2, 2, 3, 6)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    images[:, :8, 8:16] += 1  # the middle patch of the first row
    moved = np.abs(stem.apply({"params": params}, images) - found).max((0, 3)) > 0
    assert moved.tolist() == [[False, True, False], [False, False, False]]


FORMULAS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_gradients(name):
    x, h = np.linspace(-6, 6, 53) + 0.01, 1e-5
    formula = np.vectorize(FORMULAS[name])
    value, gradient = jax.vmap(jax.value_and_grad(ACTIVATIONS[name]))(np.float32(x))
    np.testing.assert_allclose(value, formula(x), atol=2e-6)
    np.testing.assert_allclose(gradient, (formula(x + h) - formula(x - h)) / (2 * h), atol=1e-5)
    assert ACTIVATIONS[name](jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("causal", [False, True])
def test_attention_weighs_values_by_a_masked_softmax(causal):
    q, k, v = (RNG.normal(size=(2, 3, 4, 5)) for _ in range(3))
    mask = RNG.random((4, 4)) < 0.7
    np.fill_diagonal(mask, True)
    found = attend(*(np.float32(a) for a in (q, k, v)), mask, causal, "xla")
    allowed = np.tril(mask) if causal else mask
    for b in range(2):
        for head in range(3):
            z = q[b, head] @ k[b, head].T / math.sqrt(5)
            z = np.exp(np.where(allowed, z, -np.inf))
            wanted = z / z.sum(1, keepdims=True) @ v[b, head]
            np.testing.assert_allclose(found[b, head], wanted, atol=1e-5)


def test_a_lone_cpu_takes_the_heads_of_large_attention_in_turn(monkeypatch):
    q, k, v = (np.float32(RNG.normal(size=(2, 3, n, 5))) for n in (4, 6, 6))

    def run(many, **how):
        def loss(q, k, v):
            return jnp.sin(attend(q, k, v, **how)).sum()

        monkeypatch.setattr(attention, "LARGE", 2 * 3 * 4 * 6 + (not many))
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
        return jax.tree.leaves(step(q, k, v)), "stablehlo.while" in step.lower(q, k, v).as_text()

    assert run(many=True)[1] is False  # of eight devices
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for how in ({"mask": np.arange(6) < 4}, {"causal": True}, {"bias": np.ones((4, 6))}):
        assert run(many=True, **how)[1] is False
    (found, turns), (wanted, _) = (run(many) for many in (True, False))
    assert turns is True
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_attention_implementation_is_chosen_by_the_measured_table(monkeypatch):
    half = jnp.bfloat16
    assert attention.choose("auto", 10**6, half) == "xla"
    with pytest.raises(UserError, match="attention: unknown 'cudn'; did you mean 'cudnn'"):
        attention.choose("cudn", 50, half)
    with pytest.raises(UserError, match="attention=cudnn needs an NVIDIA GPU"):
        attention.choose("cudnn", 50, half)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setitem(attention.CUDNN_FROM, jax.devices()[0].device_kind, 200)
    assert [attention.choose("auto", n, half) for n in (199, 200)] == ["xla", "cudnn"]
    assert attention.choose("auto", 200, jnp.float32) == attention.choose("xla", 200, half) == "xla"
    assert attention.choose("cudnn", 50, jnp.float16) == "cudnn"
    with pytest.raises(UserError, match="bfloat16 or float16"):
        attention.choose("cudnn", 50, jnp.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_the_cudnn_branch_asks_for_the_same_attention(causal, monkeypatch):
    q, k, v = (np.float32(RNG.normal(size=(2, 3, 4, 8))) for _ in range(3))
    mask = np.arange(4) < 3
    plain = jax.nn.dot_product_attention

    def xla_instead(*arrays, implementation, **how):
        assert implementation == "cudnn"
        return plain(*arrays, implementation="xla", **how)

    wanted = attend(q, k, v, mask, causal, "xla")
    monkeypatch.setattr(attention, "choose", lambda *_: "cudnn")
    monkeypatch.setattr(jax.nn, "dot_product_attention", xla_instead)
    np.testing.assert_allclose(attend(q, k, v, mask, causal), wanted, atol=1e-5)


def test_towers_hand_their_attention_to_the_blocks():
    for side in ("image", "text"):
        with pytest.raises(UserError, match="attention: unknown 'xl'"):
            method = tiny_method(**{side: {"attention": "xl"}})
            jax.eval_shape(method.init, jax.random.key(0))


def test_projections_start_with_the_spread_of_their_whole_fan():
    """LeCun's 1 / sqrt(inputs), over both axes of heads where they are the input."""
    layer = CrossAttention(4, 16, 96)
    inputs = np.zeros((1, 2, 128), np.float32), np.zeros((1, 3, 256), np.float32)
    params = jax.jit(layer.init)(jax.random.key(0), *inputs)["params"]
    for name, fan in {"query": 128, "key_value": 256, "out": 64}.items():
        assert np.std(params[name]["kernel"]) == pytest.approx(fan**-0.5, rel=0.04), name


def test_cross_attention_sees_the_context_only_where_the_mask_allows():
    layer = CrossAttention(2, 4, 6)
    x, context = np.float32(RNG.normal(size=(2, 3, 6))), np.float32(RNG.normal(size=(2, 5, 7)))
    params = layer.init(jax.random.key(0), x, context)
    mask = np.arange(5) < 3
    whole = layer.apply(params, x, context, mask)
    short = layer.apply(params, x, context[:, :3])
    np.testing.assert_allclose(whole, short, atol=1e-6)
    assert np.abs(whole - layer.apply(params, x, context)).max() > 1e-3


WIDTH, HIDDEN, LAYERS = 256, 1024, 8
# Standard deviations: the paper's code for `clip`; torch's defaults; sqrt(2 / (in + out)) of
# Xavier-uniform.
STDS = {
    "clip": (WIDTH**-0.5, WIDTH**-0.5 * (2 * LAYERS) ** -0.5, (2 * WIDTH) ** -0.5, None, 0.0),
    "torch": (
        math.sqrt(2 / (4 * WIDTH)),
        (3 * WIDTH) ** -0.5,
        (3 * WIDTH) ** -0.5,
        (3 * HIDDEN) ** -0.5,
        (3 * WIDTH) ** -0.5,
    ),
    "xavier": (WIDTH**-0.5, WIDTH**-0.5, (2 / (WIDTH + HIDDEN)) ** 0.5, None, 1e-6),
    "mae": ((2 * WIDTH) ** -0.5, WIDTH**-0.5, (2 / (WIDTH + HIDDEN)) ** 0.5, None, 0.0),
}


@pytest.mark.parametrize("rule", STDS)
def test_initial_spread_of_every_kernel(rule):
    init = block_init(rule, WIDTH, HIDDEN, LAYERS)
    qkv, out, fc1, fc2, bias = STDS[rule]
    fc2 = fc2 or (out if rule == "clip" else fc1)
    shapes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH)}
    shapes |= {"fc1": (WIDTH, HIDDEN), "fc2": (HIDDEN, WIDTH), "fc1_bias": (100_000,)}
    for name, std in dict(qkv=qkv, out=out, fc1=fc1, fc2=fc2, fc1_bias=bias).items():
        drawn = np.asarray(getattr(init, name)(jax.random.key(1), shapes[name], jnp.float32))
        assert drawn.std() == pytest.approx(std, rel=0.02), name
        assert abs(drawn.mean()) < 0.02 * std + 1e-9

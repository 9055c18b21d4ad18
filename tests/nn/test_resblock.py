"""Changes of resolution, residual blocks and what they are told, timesteps as vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys
from vlp_jax.nn.resblock import BEHIND, SYMMETRIC, Downsample, ResBlock, Upsample, doubled, halved
from vlp_jax.nn.timesteps import VectorEmbed, sinusoids

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 6, 8)).astype(np.float32)
TOLD = RNG.normal(size=(2, 5)).astype(np.float32)


def conv(x, params, stride=1, padding="SAME"):
    axes = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), padding, dimension_numbers=axes
    )
    return out + params["bias"]


def randomised(module, *args):
    params = module.init(jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda a: a + 0.3 * RNG.normal(size=a.shape).astype(np.float32), params)


@pytest.mark.parametrize("padding", [SYMMETRIC, BEHIND])
def test_halving_pads_where_it_is_told(padding):
    """Of one row of ones, the first place sees a zero before it, or the last one behind it."""
    params = {"conv": {"kernel": np.ones((3, 3, 1, 1), np.float32), "bias": np.zeros(1)}}
    found = Downsample(padding).apply({"params": params}, np.ones((1, 4, 4, 1), np.float32))
    edge, inside = (0, -1) if padding == SYMMETRIC else (-1, 0)
    assert found.shape == (1, 2, 2, 1)
    assert found[0, edge, edge, 0] == 4 and found[0, inside, inside, 0] == 9


def test_doubling_and_halving():
    twice = np.repeat(np.repeat(X, 2, 1), 2, 2)
    np.testing.assert_array_equal(doubled(X), twice)
    np.testing.assert_allclose(halved(twice), X, rtol=1e-6)
    np.testing.assert_allclose(halved(X)[0, 1, 2], X[0, 2:4, 4:6].mean((0, 1)), atol=1e-6)
    params = randomised(Upsample(), X)
    found = Upsample().apply({"params": params}, X)
    np.testing.assert_allclose(found, conv(twice, params["conv"]), atol=1e-5)


def norm_silu(x, params, film=None):
    rows = x.reshape(2, -1, 4, x.shape[-1] // 4)
    mean, var = rows.mean((1, 3), keepdims=True), rows.var((1, 3), keepdims=True)
    out = ((rows - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    out = out * params["scale"] + params["bias"]
    out = out if film is None else out * (1 + film[0][:, None, None]) + film[1][:, None, None]
    return out / (1 + np.exp(-out))


@pytest.mark.parametrize("move", ["", "up", "down"])
@pytest.mark.parametrize("film", [False, True])
def test_a_residual_block_is_its_formula(move, film):
    block = ResBlock(12, groups=4, film=film, move=move)
    fresh = flatten(block.init(jax.random.key(0), X, TOLD)["params"])
    assert not fresh["conv2/kernel"].any() and fresh["conv1/kernel"].any()
    p = randomised(block, X, TOLD)
    moved = {"": lambda x: x, "up": doubled, "down": halved}[move]
    told = TOLD / (1 + np.exp(-TOLD)) @ p["time"]["kernel"] + p["time"]["bias"]
    h = conv(moved(norm_silu(X, p["norm1"])), p["conv1"])
    if film:
        h = norm_silu(h, p["norm2"], (told[:, :12], told[:, 12:]))
    else:
        h = norm_silu(h + told[:, None, None], p["norm2"])
    wanted = conv(moved(X), p["shortcut"]) + conv(h, p["conv2"])
    np.testing.assert_allclose(block.apply({"params": p}, X, TOLD), wanted, atol=1e-4)


def test_dropout_has_a_key_of_each_example():
    block = ResBlock(8, groups=4, dropout=0.5)
    p, keys = randomised(block, X, TOLD), example_keys(jax.random.key(1), 2)
    run = lambda x, told, keys: block.apply({"params": p}, x, told, keys)  # noqa: E731
    both, one = run(X, TOLD, keys), run(X[1:], TOLD[1:], keys[1:])
    np.testing.assert_allclose(both[1:], one, atol=1e-5)
    assert np.abs(both - run(X, TOLD, None)).max() > 0.1


def test_cosines_come_first():
    """Step 500 in four columns: frequencies 1 and 1/100."""
    wanted = [np.cos(500.0), np.cos(5.0), np.sin(500.0), np.sin(5.0)]
    np.testing.assert_allclose(sinusoids(np.float32([500]), 4)[0], wanted, atol=1e-4)
    assert sinusoids(np.zeros((2, 6), np.float32), 256).shape == (2, 6, 256)
    half = sinusoids(jnp.float32([0.5]), 4)[0]  # steps need not be whole
    np.testing.assert_allclose(half[:1], np.cos(0.5), rtol=1e-6)


def test_a_vector_passes_two_layers():
    p = randomised(VectorEmbed(6), TOLD)
    h = TOLD @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    wanted = h / (1 + np.exp(-h)) @ p["fc2"]["kernel"] + p["fc2"]["bias"]
    np.testing.assert_allclose(VectorEmbed(6).apply({"params": p}, TOLD), wanted, atol=1e-5)

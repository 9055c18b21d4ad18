"""The classic ResNet: published sizes, stems, zero-initialised branches, batch statistics over all
devices, selective kernels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.core.rng import example_keys
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.resnet_v1 import ResNet, short_pool, stem_pool
from vlp_jax.nn.conv import SelectiveKernel
from vlp_jax.parallel.mesh import batch_sharding, make_mesh

IMAGES = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype(np.float32)
KEYS = example_keys(jax.random.key(0), 16)
# torchvision's counts without the 1000-class layer, and its GMACs with it.
PUBLISHED = {
    18: (11_176_512, 1.814),
    34: (21_284_672, 3.664),
    50: (23_508_032, 4.089),
    101: (42_500_160, 7.801),
    152: (58_143_808, 11.514),
    200: (62_624_832, None),
}
# arXiv:2006.10029 table 1, millions: (depth, width, selective kernels); running statistics count.
TABLE = {(50, 1, 0): 24, (50, 2, 0): 94, (101, 2, 0): 170, (152, 2, 0): 233}
TABLE |= {(50, 1, 1): 35, (50, 2, 1): 140, (101, 1, 1): 65, (101, 2, 1): 257, (152, 1, 1): 89}
TABLE |= {(152, 2, 1): 354, (152, 3, 1): 795}


def tiny(**changes):
    sizes = dict(image_size=16, depth=18, width_multiplier=0.125, stem="cifar")
    return ResNet(**{**sizes, **changes})


def shapes(tower):
    size = tower.image_size
    return jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


@pytest.fixture(scope="module")
def made():
    """A small network whose gains, biases and statistics are all random."""
    tower = tiny(depth=18, width_multiplier=0.0625)
    found = jax.jit(tower.init)(jax.random.key(0), IMAGES)
    rng = np.random.default_rng(1)
    noise = lambda x: x + 0.3 * rng.random(x.shape, np.float32)  # noqa: E731
    return tower, jax.tree.map(noise, found)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_sizes_are_the_published_ones(depth):
    tower = ResNet(224, depth)
    count, gmacs = PUBLISHED[depth]
    assert size(shapes(tower)["params"]) == count
    if gmacs:
        head = 1000 * 64 * 8 * tower.expand
        assert (tower_flops(tower) / 2 + head) / 1e9 == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize("depth, width, kernels", TABLE)
def test_wide_and_selective_sizes(depth, width, kernels):
    found = shapes(ResNet(224, depth, width, sk_ratio=0.0625 * kernels))
    assert round(size(found) / 1e6) == TABLE[depth, width, kernels]


@pytest.mark.parametrize(
    "changes, sides",
    [({}, (16, 8, 4, 2)), ({"stem": "imagenet"}, (4, 2, 1, 1)), ({"sk_ratio": 0.1}, (16, 8, 4, 2))],
)
def test_maps_and_tokens(changes, sides):
    tower = tiny(depth=50, embed_dim=6, **changes)
    found = shapes(tower)
    embedding, out = jax.eval_shape(tower.apply, found, IMAGES)
    assert embedding.shape == (16, 6) and out["pooled"].shape == (16, 256)
    assert embedding.dtype == out["pooled"].dtype == jnp.float32
    maps = [out[f"stage{s}"].shape for s in (1, 2, 3, 4)]
    assert maps == [(16, side, side, 32 * 2**s) for s, side in enumerate(sides)]
    assert out["tokens"].shape == (16, sides[-1] ** 2, 256)


def test_branches_start_at_zero_and_the_pooled_vector_is_the_mean(made):
    tower, found = made
    fresh = flatten(jax.jit(tower.init)(jax.random.key(0), IMAGES)["params"])
    zero = [path for path, leaf in fresh.items() if path.endswith("scale") and not leaf.any()]
    assert sorted(zero) == sorted(f"{name}/conv2/bn/scale" for name, _, _ in tower.blocks())
    pooled, out = jax.jit(tower.apply)(found, IMAGES)
    np.testing.assert_allclose(pooled, np.asarray(out["stage4"]).mean((1, 2)), rtol=1e-5)


def test_running_statistics_follow_the_batch(made):
    tower, found = made
    run = jax.jit(lambda v, x: tower.apply(v, x, KEYS, mutable=["batch_stats"]))
    (_, state) = run(found, IMAGES)
    before, after = (tree["batch_stats"]["stem1"]["bn"] for tree in (found, state))
    kernel = found["params"]["stem1"]["conv"]["kernel"]
    raw = jax.lax.conv_general_dilated(
        IMAGES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for name, value in (("mean", raw.mean((0, 1, 2))), ("var", raw.var((0, 1, 2)))):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * value, rtol=1e-4)


def test_statistics_are_those_of_all_devices(made):
    """Each device holds pictures of its own brightness: local statistics would differ."""
    tower, found = made
    images = IMAGES + np.arange(16, dtype=np.float32)[:, None, None, None]

    def run(devices):
        mesh = make_mesh({"data": devices}, jax.devices()[:devices])
        with jax.set_mesh(mesh):
            place = jax.device_put(images, batch_sharding(mesh))
            fn = jax.jit(lambda v, x: tower.apply(v, x, KEYS, mutable=["batch_stats"]))
            (pooled, _), state = fn(found, place)
        return np.asarray(pooled), flatten(state)

    (one, one_state), (eight, eight_state) = run(1), run(8)
    np.testing.assert_allclose(eight, one, rtol=1e-3, atol=1e-4)
    for path, value in one_state.items():
        np.testing.assert_allclose(eight_state[path], value, rtol=1e-3, atol=1e-4, err_msg=path)


def test_max_pool_padding_is_a_choice():
    """SAME on an even side pads behind alone, torch on both sides."""
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (1, 8, 8, 1))
    for padding, columns in (("same", (2, 4, 6, 7)), ("torch", (1, 3, 5, 7))):
        np.testing.assert_array_equal(stem_pool(ramp, padding)[0, 1, :, 0], columns)


def test_selective_kernels_mix_two_streams():
    module = SelectiveKernel(4, 1, 0.25, False)
    found = jax.jit(module.init)(jax.random.key(0), IMAGES)
    out = module.apply(found, IMAGES)
    streams = found["params"]["streams"]["conv"]["kernel"]
    x = jax.lax.conv_general_dilated(
        IMAGES, streams, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first, second = np.split(np.maximum(np.asarray(x) / np.sqrt(1 + 1e-5), 0), 2, axis=-1)
    squeeze, mix = (
        np.asarray(found["params"][n]["kernel"])
        if n == "mix"
        else np.asarray(found["params"][n]["conv"]["kernel"])
        for n in ("squeeze", "mix")
    )
    assert squeeze.shape == (1, 1, 4, 32)
    hidden = np.maximum((first + second).mean((1, 2)) @ squeeze[0, 0] / np.sqrt(1 + 1e-5), 0)
    logits = hidden @ mix[0, 0]
    share = 1 / (1 + np.exp(logits[:, 4:] - logits[:, :4]))[:, None, None]
    np.testing.assert_allclose(out, share * first + (1 - share) * second, atol=1e-5)


def test_short_pools_as_in_the_code():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    np.testing.assert_allclose(short_pool(x, 2)[0, :, :, 0], [[2, 7 / 4], [13 / 4, 2]])
    np.testing.assert_allclose(short_pool(x, 1)[0, 2, :, 0], [6.5, 7.5, 8])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depth": 51}, "image.depth=51: must be one of"),
        ({"stem": "cifer"}, "image.stem: unknown 'cifer'; did you mean 'cifar'"),
        (
            {"pool_padding": "torc", "stem": "imagenet"},
            "image.pool_padding: unknown 'torc'; did you mean 'torch'",
        ),
    ],
)
def test_bad_sizes_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        shapes(tiny(**changes))


def test_half_precision_gives_numbers():
    """jaxlib 0.12's CPU compiler fuses the pooling with the last stage and fills it with NaN,
    unless a barrier stands between them.
    """
    whole, half = (
        tiny(image_size=32, width_multiplier=0.25, dtype=d) for d in ("float32", "bfloat16")
    )
    images = np.random.default_rng(1).normal(size=(16, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(whole.init)(jax.random.key(0), images)
    wanted, found = (
        jax.jit(lambda v, x, t=t: t.apply(v, x)[0])(variables, images) for t in (whole, half)
    )
    np.testing.assert_allclose(found, wanted, atol=0.05)

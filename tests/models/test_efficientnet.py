"""EfficientNet: published sizes to the last weight, TensorFlow's padding, depth that drops out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.core.rng import example_keys
from vlp_jax.models.archs.efficientnet import efficientnet_tower
from vlp_jax.models.efficientnet import EfficientNet, pads
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.towers import make_tower
from vlp_jax.nn.conv import depthwise

STAGES = ((3, 1, 1, 8, 1), (5, 2, 4, 16, 2))
IMAGES = np.random.default_rng(0).normal(size=(4, 17, 17, 3)).astype(np.float32)
KEYS = example_keys(jax.random.key(0), 4)
# Parameters with a linear classifier of 1000 classes, as published with the weights.
PUBLISHED = {
    "B0": 5_288_548,
    "B1": 7_794_184,
    "B3": 12_233_232,
    "B5": 30_389_784,
    "B7": 66_347_960,
    "L2": 480_309_308,
    "lite0": 4_652_008,
    "lite4": 13_006_568,
}


def tower(**changes):
    return EfficientNet(17, stages=STAGES, stem=8, top_width=0, **changes)


def init(net):
    return jax.jit(net.init)(jax.random.key(0), IMAGES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    """Blocks that repeat are traced once, but for the smallest."""
    net = make_tower(efficientnet_tower(name, image_size=64), "image")
    count = size(traced(net)) if name in ("B0", "lite0") else repeated(net)
    assert count + 1000 * net.width + 1000 == PUBLISHED[name]


def traced(net):
    return jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]


def repeated(net):
    """Weights of a network from one whose stages have two blocks each."""
    stages = tuple((*stage[:4], 2) for stage in net.stages)
    params, stage = traced(net.clone(stages=stages, depth_multiplier=1.0)), -1
    total = size({name: tree for name, tree in params.items() if not name.startswith("block")})
    for block in net.blocks():
        stage += not block.residual  # the first of its stage
        total += size(params[f"block{2 * stage + block.residual}"])
    return total


# Channels of the last stage (align.md 2.2) and blocks.
STAGED = {"B0": (320, 16), "B1": (320, 23), "B3": (384, 26), "B5": (512, 39), "B7": (640, 55)}
STAGED |= {"L2": (1376, 88), "lite0": (320, 16), "lite4": (448, 30)}


@pytest.mark.parametrize("name", STAGED)
def test_stages_scale_in_width_and_depth(name):
    net = make_tower(efficientnet_tower(name), "image")
    found = net.blocks()
    assert (found[-1].after, len(found)) == STAGED[name]
    assert (net.stem_width == 32) == (name in ("B0", "B1", "lite0", "lite4"))
    assert not found[0].residual
    assert (len(found) > 16) == found[1].residual or name.startswith("lite")


def test_gflops_of_b0():
    """0.39 billion multiply-adds (Table 2) at 224 pixels."""
    net = make_tower(efficientnet_tower("B0"), "image")
    assert tower_flops(net) / 2e9 == pytest.approx(0.39, rel=0.02)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [8, 9])
def test_padding_of_even_and_odd_maps(kernel, side):
    """TensorFlow's `same` follows the size that comes, `even` and `square` do not."""
    x, weights = np.random.default_rng(1).normal(size=(2, side, side)), np.ones((kernel, kernel))
    reach = (-(-side // 2) - 1) * 2 + kernel - side
    wanted = {
        "same": (reach // 2, reach - reach // 2),
        "even": (kernel // 2 - 1, kernel // 2),
        "square": (kernel // 2, kernel // 2),
    }
    for padding, pad in wanted.items():
        found = jax.lax.conv_general_dilated(
            jnp.float32(x[0])[None, None], jnp.float32(weights)[None, None], (2, 2),
            pads(kernel, 2, padding),
        )[0, 0]  # fmt: skip
        padded = np.pad(x[0], [pad, pad])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel))[::2, ::2]
        np.testing.assert_allclose(found, windows.sum((2, 3)), atol=1e-4)
    assert (wanted["same"] == wanted["even"]) == (side == 8)
    assert pads(kernel, 1, "even") == pads(kernel, 1, "square") == "SAME"


@pytest.mark.parametrize("stride, padding", [(1, "SAME"), (2, "SAME"), (2, [(1, 2), (1, 2)])])
def test_depthwise_is_the_grouped_convolution(stride, padding):
    """Value and gradients, on CPUs by another way."""
    rng = np.random.default_rng(2)
    x, kernel = (jnp.float32(rng.normal(size=s)) for s in ((2, 8, 9, 3), (5, 5, 1, 3)))
    how = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3)

    def both(conv):
        run = lambda x, kernel: conv(x, kernel, (stride, stride), padding, **how)  # noqa: E731
        loss = lambda x, kernel: jnp.sum(jnp.sin(run(x, kernel)))  # noqa: E731
        return jax.jit(lambda *a: (run(*a), *jax.grad(loss, (0, 1))(*a)))(x, kernel)

    for one, other in zip(both(depthwise), both(jax.lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)


def test_statistics_move_by_the_published_momentum():
    net = tower()
    variables = init(net)
    run = jax.jit(lambda keys: net.apply(variables, IMAGES, keys, mutable=["batch_stats"]))
    (_, out), state = run(KEYS)
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    first = jax.lax.conv_general_dilated(
        IMAGES, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    moved = state["batch_stats"]["stem"]["bn"]
    np.testing.assert_allclose(moved["mean"], 0.01 * first.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.99 + 0.01 * first.var((0, 1, 2)), rtol=1e-5)
    (_, still), kept = run(None)
    before = flatten(variables["batch_stats"])
    for path, leaf in flatten(kept["batch_stats"]).items():
        np.testing.assert_array_equal(leaf, before[path])
    assert np.abs(out["pooled"] - still["pooled"]).max() > 1e-3


def test_depth_drops_out_of_residual_blocks_alone_and_more_of_the_last():
    drops = [(b.drop, b.residual) for b in tower(drop_path=0.3).blocks()]
    assert drops == [(0.0, False), (pytest.approx(0.1), False), (pytest.approx(0.2), True)]
    net, images = tower(drop_path=0.999), np.repeat(IMAGES[:1], 4, 0)
    variables = init(net)
    run = jax.jit(lambda net, rng: net.apply(variables, images, rng, mutable=["batch_stats"])[0],
                  static_argnums=0)  # fmt: skip
    rows = run(net, KEYS)[1]["tokens"]  # the last block is dropped with chance 0.67
    calm = run(net.clone(drop_path=0.0), KEYS)[1]["tokens"]
    assert np.abs(rows[0] - calm[0]).max() > 1e-3
    assert len({np.asarray(row).tobytes() for row in rows}) == 2, "some examples lose the branch"


def test_projection_only_where_the_width_is_another():
    for embed_dim, head in ((0, False), (16, False), (12, True)):
        net = tower(embed_dim=embed_dim)
        params = jax.eval_shape(net.init, jax.random.key(0), IMAGES)["params"]
        assert ("head/kernel" in flatten(params)) == head and net.width == 16


def test_lite_has_no_squeeze_and_bounded_activations():
    net = make_tower(efficientnet_tower("lite0", stages=STAGES, image_size=17), "image")
    variables = init(net)
    assert not any("reduce" in path for path in flatten(variables["params"]))
    tokens = jax.jit(net.apply)(variables, 1e3 * IMAGES)[1]["tokens"]
    assert tokens.shape == (4, 25, 1280) and tokens.min() >= 0 and tokens.max() <= 6


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"padding": "evn"}, "image.padding: unknown 'evn'; did you mean 'even'"),
        ({"activation": "swish"}, "image.activation: unknown 'swish'"),
        ({"stages": ((3, 1, 1, 8),)}, r"image.stages=.*: each stage must be \(kernel, stride"),
    ],
)
def test_refusals(changes, message):
    net = EfficientNet(17, **{"stages": STAGES, **changes})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), IMAGES)
    with pytest.raises(UserError, match="EfficientNet size: unknown 'B9'"):
        efficientnet_tower("B9")

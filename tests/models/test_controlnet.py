"""ControlNet: the published size, the start bit for bit, the copy's paths, scales, bad input."""

import dataclasses

import jax
import numpy as np
import pytest
from test_unet import GIVEN, LATENT, TIME, TINY, filled, made

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.models.archs.unet import context_width, unet
from vlp_jax.models.controlnet import ControlNet, joined, reads, scaled
from vlp_jax.models.towers import make_tower

BASE = dataclasses.replace(TINY, depths=(0, 1))
SIZES = {f.name: getattr(BASE, f.name) for f in dataclasses.fields(BASE) if f.init}
NET = ControlNet(
    **{k: v for k, v in SIZES.items() if k not in ("parent", "name")}, hint_widths=(4, 6)
)
HINT = np.random.default_rng(2).uniform(size=(2, 8, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def start():
    return jax.jit(NET.init)(jax.random.key(3), LATENT, TIME, GIVEN, HINT)


def test_the_published_size():
    net = make_tower(unet("sd1") | {"name": "controlnet"}, "control")
    found = jax.eval_shape(net.init, jax.random.key(0), *reads(net, context_width("sd1")))
    assert net.factor == 8 and size(found) == 361_279_120


def test_the_copy_has_the_unets_paths_and_the_rest_is_its_own(start):
    ours, base = (flatten(tree["params"]) for tree in (start, made(BASE)))
    copy = {path for path in base if not path.startswith(("up", "norm_out", "conv_out"))}
    assert copy <= ours.keys()
    assert all(ours[path].shape == base[path].shape for path in copy)
    own = {path.split("/")[0] for path in ours.keys() - copy}
    assert own == {"hint", "zero0", "zero1", "zero2", "zero3", "zero_mid"}


def test_at_the_start_the_output_is_the_bases_bit_for_bit(start):
    variables = made(BASE)

    @jax.jit
    def both(variables, start):
        control = NET.apply(start, LATENT, TIME, GIVEN, HINT)
        return BASE.apply(variables, LATENT, TIME, GIVEN._replace(control=control)), control

    out, control = both(variables, start)
    alone = jax.jit(BASE.apply)(variables, LATENT, TIME, GIVEN)
    np.testing.assert_array_equal(out, alone)
    assert not any(leaf.any() for leaf in jax.tree.leaves(control)) and alone.any()
    gradient = jax.jit(jax.grad(lambda s: (both(variables, s)[0] ** 2).sum()))(start)["params"]
    learns = {p.split("/")[0] for p, leaf in flatten(gradient).items() if np.any(leaf)}
    assert learns == {"zero0", "zero1", "zero2", "zero3", "zero_mid"}  # the others follow


def test_scales_and_sums():
    shapes = jax.eval_shape(NET.init, jax.random.key(0), LATENT, TIME, GIVEN, HINT)
    run, variables = jax.jit(NET.apply), filled(shapes)
    found = run(variables, LATENT, TIME, GIVEN, HINT)
    other = run(variables, LATENT, TIME, GIVEN, HINT[::-1])
    assert np.abs(found.middle - other.middle).max() > 1e-3  # the picture is seen
    np.testing.assert_array_equal(scaled(found, 0.5).skips[2], 0.5 * found.skips[2])
    guess = scaled(found, 2.0, guess=True)
    steps = 10 ** np.linspace(-1, 0, 5)  # 0.1, 0.178, 0.316, 0.562, 1
    pairs = (*guess.skips, guess.middle), (*found.skips, found.middle)
    for one, two, step in zip(*pairs, steps, strict=True):
        np.testing.assert_allclose(one, 2 * step * two, rtol=1e-5)
    two = joined([found, scaled(other, 0.5)])
    np.testing.assert_allclose(two.skips[1], found.skips[1] + other.skips[1] / 2, rtol=1e-5)


@pytest.mark.parametrize(
    "hint, message",
    [
        (None, "controlnet: needs a control picture"),
        (HINT[:, :4], "a control picture of 4x12x3, it must be 8x12x3"),
        (HINT[..., :1], "a control picture of 8x12x1, it must be 8x12x3"),
    ],
)
def test_bad_input_is_one_line(hint, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(NET.init, jax.random.key(0), LATENT, TIME, GIVEN, hint)

"""Autoencoders of latent diffusion: published sizes, posterior and codes, precision, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_unet import filled

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.core.rng import example_keys
from vlp_jax.models.archs.autoencoder import ARCHS, autoencoder
from vlp_jax.models.autoencoder import Autoencoder
from vlp_jax.models.towers import make_tower

# Counted by layer; kl-f8 is that of Stable Diffusion. kl-f16's five attentions of its last level
# (attn_resolutions 16) have 1,051,648 each: without them, as diffusers' plain blocks are, there are
# 64,352,723.
EXACT = {
    "kl-f4": 55_312_063,
    "kl-f8": 83_653_863,
    "kl-f16": 64_352_723 + 5 * 1_051_648,
    "kl-f16-noattn": 64_352_723,
    "kl-f32": 103_880_131,
    "vq-f4": 55_298_206 + 8192 * 3,
    "vq-f4-noattn": 55_298_206 - 2 * 1_051_648 + 8192 * 3,
    "vq-f8": 67_651_759 + 16384 * 4,
    "vq-f8-n256": 67_651_759 + 256 * 4,
    "vq-f16": 69_462_299 + 16384 * 8,
}
TINY = Autoencoder(latent_channels=3, widths=(8, 16, 16), res_blocks=1, groups=4)
CODED = dataclasses.replace(TINY, codes=11, code_width=2, attend=(False, False, True))
PICTURES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
KEYS = example_keys(jax.random.key(1), 2)


def made(net):
    """Its variables, nothing at zero."""
    return filled(jax.eval_shape(net.init, jax.random.key(0), PICTURES))


@pytest.fixture(scope="module")
def variables():
    return made(TINY)


@pytest.mark.parametrize("name", EXACT)
def test_published_sizes(name):
    net = make_tower(autoencoder(name), "autoencoder")
    side = net.factor
    found = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, side, side, 3)))
    assert size(found) == EXACT[name]
    channels = {"kl-f4": 3, "kl-f8": 4, "kl-f32": 64, "vq-f4": 3, "vq-f16": 8}
    assert net.width == channels.get(name, net.width)
    assert f"f{side}" in name.split("-") and set(ARCHS) == set(EXACT)


def test_there_and_back(variables):
    mean, logvar = TINY.apply(variables, PICTURES, method="encode")
    assert mean.shape == logvar.shape == (2, 4, 6, 3) and mean.dtype == jnp.float32
    decoded = TINY.apply(variables, mean, method="decode")
    assert decoded.shape == PICTURES.shape and decoded.dtype == jnp.float32
    np.testing.assert_allclose(TINY.apply(variables, PICTURES), decoded, atol=1e-5)


def test_log_variances_are_cut(variables):
    quant = variables["params"]["quant_conv"]
    for bias, wanted in ((-100, -30), (100, 20)):
        changed = {**quant, "bias": np.float32([0, 0, 0, bias, bias, bias])}
        whole = {"params": {**variables["params"], "quant_conv": changed}}
        mean, logvar = TINY.apply(whole, PICTURES, method="encode")
        assert (logvar == wanted).all() and np.abs(mean).max() < 30


def test_codes(variables):
    whole = made(CODED)
    latent, none = CODED.apply(whole, PICTURES, method="encode")
    assert latent.shape == (2, 4, 6, 2) and none is None
    found = CODED.apply(whole, latent, method="quantise")
    assert found.index.shape == (2, 4, 6) and found.codes.shape == latent.shape
    decoded = CODED.apply(whole, found.straight, method="decode")
    np.testing.assert_allclose(CODED.apply(whole, PICTURES), decoded, atol=1e-5)
    attentions = {path.split("/")[1] for path in flatten(whole["params"]) if "_attn" in path}
    assert attentions == {"mid_attn0", "down2_attn0", "up0_attn0", "up0_attn1"}
    with pytest.raises(UserError, match=r"autoencoder.codes=0: there is no codebook"):
        TINY.apply(variables, latent, method="quantise")


def test_an_encoder_starts_as_published():
    """No kernel of an autoencoder is zero at the start, unlike a U-Net's."""
    fresh = flatten(jax.jit(TINY.init)(jax.random.key(0), PICTURES)["params"])
    assert all(leaf.any() for path, leaf in fresh.items() if path.endswith("kernel"))
    kernel = fresh["encoder/down0_res0/conv1/kernel"]  # U(-1, 1) / sqrt(9 * 8)
    assert 0.95 < np.abs(kernel).max() * 72**0.5 <= 1


def test_bfloat16_and_recomputation(variables):
    def loss(net, params):
        mean, _ = net.apply({"params": params}, PICTURES, method="encode", rng=KEYS)
        return (mean**2).sum() + net.apply({"params": params}, mean, method="decode").sum()

    value = lambda net: jax.jit(jax.value_and_grad(lambda p: loss(net, p)))(variables["params"])  # noqa: E731
    dropped = dataclasses.replace(TINY, dropout=0.3)
    one, two = value(dropped), value(dataclasses.replace(dropped, remat="full"))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
    for path, leaf in flatten(one[1]).items():
        limit = 1e-4 * max(1.0, np.abs(leaf).max())
        np.testing.assert_allclose(flatten(two[1])[path], leaf, atol=limit, err_msg=path)
    assert abs(one[0] - value(TINY)[0]) > 1e-3  # dropout did something
    low = dataclasses.replace(TINY, dtype="bfloat16").apply(variables, PICTURES)
    apart = np.abs(low - TINY.apply(variables, PICTURES)).max()
    assert low.dtype == jnp.float32 and 1e-4 < apart < 0.2


@pytest.mark.parametrize(
    "changes, side, message",
    [
        ({}, 18, "pictures of 18x24 pixels, sides must be multiples of 4"),
        ({"attend": (True,)}, 16, r"autoencoder.attend=\(True,\): must say it of 3 levels"),
        ({"dtype": "bfloat"}, 16, "autoencoder.dtype: unknown 'bfloat'; did you mean 'bfloat16'"),
    ],
)
def test_bad_input_is_one_line(changes, side, message):
    net = dataclasses.replace(TINY, **changes)
    with pytest.raises(UserError, match=message) as error:
        jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, side, 24, 3), np.float32))
    assert "\n" not in str(error.value)

"""Augmentation on the device: identity by default, per-example randomness, ranges kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.augment.pictures import CLIP_MEAN, CLIP_STD, Augment, augment, normalise
from vlp_jax.core.rng import example_keys

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
KEYS = example_keys(jax.random.key(0), 12)
ALL = Augment((0.3, 1.0), (0.75, 4 / 3), 0.5, 0.4, 0.4, 0.4, 0.2)
run = jax.jit(augment, static_argnums=1)


def test_normalise_is_the_published_formula():
    wanted = (IMAGES / 255.0 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    np.testing.assert_allclose(normalise(IMAGES, CLIP_MEAN, CLIP_STD), wanted, atol=1e-5)


def test_nothing_to_do_leaves_the_bytes_alone():
    assert augment(IMAGES, Augment(), KEYS) is IMAGES
    assert augment(IMAGES, ALL, None) is IMAGES


SWITCHES = [f.name for f in dataclasses.fields(Augment) if f.default is not False and not f.default]
SWITCHES.remove("blur")  # pictures of 8 pixels are not


@pytest.mark.parametrize("field", [*SWITCHES, "crop"])
def test_each_switch_works_alone_per_example_and_in_range(field):
    if field == "crop":
        config = Augment(crop_scale=(0.3, 0.9))
    else:
        config = dataclasses.replace(Augment(), **{field: 0.5})
    out = np.asarray(run(IMAGES, config, KEYS))
    assert out.shape == IMAGES.shape and out.min() >= 0 and out.max() <= 255
    same = [np.allclose(a, b, atol=1e-3) for a, b in zip(out, IMAGES, strict=True)]
    assert not all(same)
    np.testing.assert_allclose(out[4:8], run(IMAGES[4:8], config, KEYS[4:8]), atol=1e-3)
    if field == "flip":
        assert 2 <= sum(same) <= 10
        flipped = [np.allclose(a, b[:, ::-1]) for a, b in zip(out, IMAGES, strict=True)]
        assert [a ^ b for a, b in zip(same, flipped, strict=True)] == [True] * 12
    if field == "grey":
        grey = out[~np.array(same)]
        assert np.ptp(grey, axis=-1).max() < 1e-3, "no colour is left"
        luma = IMAGES[~np.array(same)] @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(grey[..., 0], luma, atol=1e-2)
    if field == "brightness":
        dark = np.full((12, 8, 8, 3), 100, np.uint8)
        ratio = np.asarray(run(dark, config, KEYS))[:, 0, 0, 0] / 100
        assert 0.5 <= ratio.min() < 0.8 and 1.2 < ratio.max() <= 1.5
    if field in ("contrast", "saturation"):
        plain = np.full((12, 8, 8, 3), 77, np.uint8)
        np.testing.assert_allclose(run(plain, config, KEYS), 77, atol=1e-2)


def test_a_crop_of_the_whole_picture_is_the_picture():
    config = Augment(crop_scale=(0.999999, 1.0), crop_ratio=(1.0, 1.000001))
    np.testing.assert_allclose(run(IMAGES, config, KEYS), IMAGES, atol=0.05)


def test_crops_lie_inside_and_keep_the_asked_area():
    """A horizontal ramp: the crop's ends tell its place and width."""
    size = 64
    ramp = np.broadcast_to(np.linspace(40, 200, size)[None, :, None], (size, size, 3))
    images = np.repeat(ramp[None], 64, 0).astype(np.float32)
    keys = example_keys(jax.random.key(3), 64)
    config = Augment(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.000001))
    out = np.asarray(run(images, config, keys))
    slope = out[:, 0, 40, 0] - out[:, 0, 24, 0]
    half = 16 * 0.5 * 160 / 63  # half the side, shown twice as wide
    np.testing.assert_allclose(slope, half, rtol=0.03)
    starts = (out[:, 0, 8, 0] - 40) / 160
    assert out.min() >= 38 and out.max() <= 202
    assert starts.min() < 0.2 and starts.max() > 0.4, "crops start anywhere"


def test_all_switches_together_are_deterministic_and_finite():
    first, second = run(IMAGES, ALL, KEYS), run(IMAGES, ALL, KEYS)
    np.testing.assert_array_equal(first, second)
    assert bool(jnp.isfinite(first).all())

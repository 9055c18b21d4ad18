"""Lab, its bins, and the way there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.augment.lab import ab_bins, decode_ab, encode_ab, lab_to_srgb, srgb_to_lab

COLOURS = np.random.default_rng(0).uniform(0, 1, (500, 3)).astype(np.float32)
# lowest and highest b of every a in the published 313 points, a = -90, -80, ..., 100
LOW = (50, 20, 0, -20, -30, -40, -50, -50, -60, -70, -80, -80, -90, -100, -100, -110, -110, -110)
LOW = (*LOW, -110, -90)
HIGH = (90, 90, 90, 90, 100, 100, 100, 100, 100, 100, 90, 90, 90, 90, 80, 80, 80, 70, 70, 0)


def test_known_colours():
    """Primaries under D65 to two decimals (Lindbloom's calculator)."""
    known = {
        (1, 1, 1): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (1, 0, 0): (53.24, 80.09, 67.20),
        (0, 1, 0): (87.73, -86.18, 83.18),
        (0, 0, 1): (32.30, 79.19, -107.86),
    }
    found = srgb_to_lab(jnp.array(list(known), jnp.float32))
    np.testing.assert_allclose(found, np.array(list(known.values())), atol=0.03)


def test_there_and_back():
    dark = np.concatenate([COLOURS, COLOURS * 0.03])
    np.testing.assert_allclose(lab_to_srgb(srgb_to_lab(dark)), dark, atol=2e-4)
    outside = np.asarray(lab_to_srgb(jnp.array([[50.0, 120.0, -120.0], [100.0, 80.0, 80.0]])))
    assert outside.min() == 0 and outside.max() == pytest.approx(1, abs=1e-6)  # cut on both sides


def test_the_bins_are_the_published_ones():
    bins = ab_bins(10)
    published = [
        (a, b)
        for a, low, high in zip(range(-90, 101, 10), LOW, HIGH, strict=True)
        for b in range(low, high + 1, 10)
    ]
    assert len(bins) == 313
    np.testing.assert_array_equal(bins, np.float32(published))
    assert 90 < len(ab_bins(20)) < 110


@pytest.mark.parametrize("neighbours, step", [(5, 10), (10, 10), (5, 20)])
def test_encoding_then_decoding_errs_by_less_than_half_a_bin(neighbours, step):
    ab, bins = srgb_to_lab(COLOURS)[:, 1:], ab_bins(step)
    ids, weights = encode_ab(ab, step, neighbours, step / 2)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert (np.diff(weights, axis=-1) <= 1e-6).all() and weights.min() >= 0
    distance = np.linalg.norm(ab[:, None] - bins, axis=-1)
    found = np.take_along_axis(distance, np.asarray(ids), axis=1)
    np.testing.assert_allclose(found, np.sort(distance, axis=1)[:, :neighbours], atol=1e-2)
    back = (weights[..., None] * bins[ids]).sum(1)
    assert np.linalg.norm(back - ab, axis=-1).max() < step / 2
    dense = jnp.zeros((500, len(bins))).at[np.arange(500)[:, None], ids].add(weights)
    np.testing.assert_allclose(decode_ab(jnp.log(dense), bins, 1.0), back, atol=1e-3)


def test_weights_are_gaussian_in_the_distance():
    """a = 12, b = 4, sigma 5: squared distances 20, 40, 80 and 100 of the nearest four bins."""
    ids, weights = encode_ab(jnp.array([12.0, 4.0]), 10, 4, 5.0)
    assert ab_bins(10)[np.asarray(ids)].tolist() == [[10, 0], [10, 10], [20, 0], [20, 10]]
    exact = np.exp(-np.array([20, 40, 80, 100]) / 50)
    np.testing.assert_allclose(weights, exact / exact.sum(), rtol=1e-5)


def test_the_annealed_mean_runs_from_mean_to_mode():
    bins = ab_bins(10)
    logits = 2 * jax.random.normal(jax.random.key(0), (20, 313))
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    np.testing.assert_allclose(decode_ab(logits, bins, 1.0), p @ bins, atol=1e-3)
    sharp = logits.at[jnp.arange(20), jnp.arange(20)].add(20.0)
    np.testing.assert_allclose(decode_ab(sharp, bins, 0.01), bins[:20], atol=1e-3)
    mid = p**2
    np.testing.assert_allclose(
        decode_ab(logits, bins, 0.5), mid @ bins / mid.sum(1, keepdims=True), atol=1e-3
    )

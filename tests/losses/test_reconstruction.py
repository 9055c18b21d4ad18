"""Patches, their moments and the mean over hidden ones, against numpy loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.losses.reconstruction import (
    masked_sum,
    patch_error,
    patch_moments,
    patchify,
    unpatchify,
)

PICTURES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


def test_pixels_of_a_patch_are_ordered_row_column_channel():
    patches = np.asarray(patchify(PICTURES, 4))
    assert patches.shape == (2, 4, 48)
    np.testing.assert_array_equal(patches[1, 1], PICTURES[1, :4, 4:].ravel())  # upper right
    np.testing.assert_array_equal(patches[0, 2, :3], PICTURES[0, 4, 0])  # lower left, first pixel
    np.testing.assert_array_equal(unpatchify(patches, 4), PICTURES)


def test_moments_are_unbiased_and_a_blank_patch_stays_finite():
    patches = np.asarray(patchify(PICTURES, 4))
    mean, deviation = patch_moments(patches)
    np.testing.assert_allclose(mean[..., 0], patches.mean(-1), atol=1e-6)
    np.testing.assert_allclose(deviation[..., 0] ** 2, patches.var(-1, ddof=1) + 1e-6, rtol=1e-5)
    mean, deviation = patch_moments(jnp.full((1, 1, 48), 0.7))
    np.testing.assert_allclose(deviation, 1e-3, rtol=1e-4)
    assert float(jnp.abs((0.7 - mean) / deviation).max()) < 1e-2


def test_the_error_of_hidden_patches_alone_is_summed():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 2, 4, 48)).astype(np.float32)
    hidden = np.array([[True, False, True, True], [False, False, False, True]])
    wanted = [
        sum(((a[i, n] - b[i, n]) ** 2).mean() for n in range(4) if hidden[i, n]) for i in range(2)
    ]
    error = patch_error(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(masked_sum(error, jnp.asarray(hidden)), wanted, rtol=1e-5)
    half = patch_error(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16))
    assert half.dtype == jnp.float32 and float(half.mean()) == pytest.approx(
        float(error.mean()), rel=0.02
    )

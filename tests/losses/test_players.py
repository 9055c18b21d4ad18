"""The critic's terms and the latents' against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.losses.adversarial import adaptive_weight, hinge, kernel_slope, with_slope
from vlp_jax.losses.latent import codebook_loss, gaussian_kl
from vlp_jax.losses.perceptual import map_distance


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_critic_has_the_hinge_and_its_slopes():
    real, fake = 1.5 * draw(4, 3, 3), 1.5 * draw(4, 3, 3, seed=1)
    wanted = (np.maximum(0, 1 - np.float64(real)) + np.maximum(0, 1 + np.float64(fake))) / 2
    np.testing.assert_allclose(hinge(real, fake), wanted, rtol=1e-6)
    slopes = jax.grad(lambda real, fake: hinge(real, fake).sum(), (0, 1))(real, fake)
    np.testing.assert_array_equal(slopes[0], np.where(real < 1, -0.5, 0.0))
    np.testing.assert_array_equal(slopes[1], np.where(fake > -1, 0.5, 0.0))
    assert float(hinge(jnp.float32(2), jnp.float32(-2))) == 0


def test_the_adaptive_weight_is_a_ratio_of_norms_without_a_slope():
    """VQGAN equation 7 with the code's 1e-4 and its bound."""
    a, b = 3 * draw(3, 3, 5, 2), draw(3, 3, 5, 2, seed=1)
    norms = [np.sqrt(np.square(np.float64(x)).sum()) for x in (a, b)]
    assert float(adaptive_weight(a, b)) == pytest.approx(norms[0] / (norms[1] + 1e-4), rel=1e-6)
    assert float(adaptive_weight(a, 0 * b)) == 1e4 and float(adaptive_weight(0 * a, b)) == 0
    assert float(adaptive_weight(1e-3 * a, 0 * b)) == pytest.approx(10 * norms[0], rel=1e-5)
    slopes = jax.grad(lambda a, b: adaptive_weight(a, b), (0, 1))(a, b)
    assert all((np.asarray(slope) == 0).all() for slope in slopes)


def test_each_examples_slope_at_a_kernel_is_that_of_the_convolution():
    inputs, kernel, target = draw(3, 6, 5, 4), draw(3, 3, 4, 2, seed=1), draw(3, 6, 5, 2, seed=2)

    def convolved(kernel, inputs):
        how = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest")
        return jax.lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", **how)

    def loss(kernel, row):
        return jnp.square(convolved(kernel, inputs[row : row + 1]) - target[row]).sum()

    slopes = 2 * (convolved(kernel, inputs) - target)
    found = kernel_slope(inputs, slopes)
    for row in range(3):
        np.testing.assert_allclose(found[row], jax.grad(loss)(kernel, row), rtol=1e-4, atol=1e-4)


def test_a_slope_that_is_known_stands_for_the_way_back():
    x, weight = draw(4, 2, 3), np.float32([1, -2, 0.5, 3])
    each = lambda x: jnp.sin(x).sum((1, 2))  # noqa: E731
    slope = jax.grad(lambda x: each(x).sum())(x)
    short = lambda x: (weight * with_slope(each(jax.lax.stop_gradient(x)), slope, x)).sum()  # noqa: E731
    found, wanted = (jax.value_and_grad(f)(x) for f in (short, lambda x: (weight * each(x)).sum()))
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6)


def test_the_divergence_from_the_prior_is_a_sum_over_a_pictures_latents():
    mean, logvar = draw(3, 2, 2, 4), draw(3, 2, 2, 4, seed=1)
    m, lv = np.float64(mean), np.float64(logvar)
    wanted = 0.5 * (m**2 + np.exp(lv) - 1 - lv).sum((1, 2, 3))
    np.testing.assert_allclose(gaussian_kl(mean, logvar), wanted, rtol=1e-6)
    assert float(gaussian_kl(0 * mean, 0 * logvar).max()) == 0


def test_latents_go_to_their_codes_faster_than_codes_to_latents():
    """Taming's legacy placement: 1 on the latents' side, beta = 0.25 on the codes'."""
    latent, codes = draw(3, 2, 2, 4), draw(3, 2, 2, 4, seed=1)
    square = np.square(np.float64(latent) - codes).mean((1, 2, 3))
    np.testing.assert_allclose(codebook_loss(latent, codes), 1.25 * square, rtol=1e-6)
    slopes = jax.grad(lambda z, e: codebook_loss(z, e).sum(), (0, 1))(latent, codes)
    np.testing.assert_allclose(slopes[0], 2 * (latent - codes) / 16, rtol=1e-5)
    np.testing.assert_allclose(slopes[1], 0.25 * 2 * (codes - latent) / 16, rtol=1e-5)
    classic = jax.grad(lambda z: codebook_loss(z, codes, 0.25, 1.0).sum())(latent)
    np.testing.assert_allclose(classic, slopes[0] / 4, rtol=1e-5)


def test_maps_are_compared_place_by_place():
    maps = [draw(2, 4, 4, 3), draw(2, 2, 2, 5, seed=1)]
    others = [draw(2, 4, 4, 3, seed=2), draw(2, 2, 2, 5, seed=3)]
    pairs = zip(maps, others, strict=True)
    wanted = sum(np.square(np.float64(a) - b).sum(-1).mean((1, 2)) for a, b in pairs)
    np.testing.assert_allclose(map_distance(maps, others), wanted, rtol=1e-6)

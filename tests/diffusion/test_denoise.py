"""Targets, weights, guidance, thresholds and variances against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from vlp_jax.core.rng import example_keys
from vlp_jax.diffusion import denoise, guidance, thresholds, variance
from vlp_jax.diffusion.schedules import Schedule

SD = Schedule()
RNG = example_keys(jax.random.key(0), 3)
SHAPE = (2, 3, 4)
TIME = jnp.array([0, 500, 999])
X0 = denoise.noise(RNG, SHAPE)
EPS = denoise.noise(example_keys(jax.random.key(1), 3), SHAPE)


def near(found, wanted, limit=1e-6):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_a_target_says_what_it_is_made_of(kind):
    at = denoise.level(SD, TIME, X0)
    x = denoise.noised(X0, EPS, at)
    found = denoise.seen(kind, denoise.target(kind, X0, EPS, at), x, at)
    near(found.x0, X0, 1e-5)
    near(found.eps, EPS, 2e-5)  # of x0: divided by sigma 0.03


def test_levels_are_of_each_row():
    at = denoise.level(SD, TIME, X0)
    assert at.alpha.shape == (3, 1, 1, 1)
    near(at.alpha.ravel() ** 2, [0.99915, 0.276333, 0.00466010])
    near(at.alpha**2 + at.sigma**2, 1)


def test_without_noise_there_is_none_to_see():
    at = denoise.Level(jnp.float32(1), jnp.float32(0))
    near(denoise.seen("x0", X0, X0, at).eps, 0)


def test_min_snr_weights():
    at = denoise.level(SD, jnp.array([500, 0]), X0[:2])
    snr = np.array([0.38185, 0.99915 / 0.00085])
    found = {k: denoise.min_snr_weight(k, at).ravel() for k in ("eps", "x0", "v")}
    least = np.minimum(snr, 5)
    for kind, wanted in (("x0", least), ("eps", least / snr), ("v", least / (snr + 1))):
        np.testing.assert_allclose(found[kind], wanted, rtol=1e-4)
    none = denoise.Level(jnp.float32(0), jnp.float32(1))
    assert [float(denoise.min_snr_weight(k, none)) for k in ("eps", "x0", "v")] == [1, 0, 0]


def test_noise_is_of_its_row_alone():
    near(denoise.noise(RNG[1:], SHAPE), X0[1:])


def test_offset_noise_is_one_number_per_channel():
    found = denoise.offset_noise(RNG, EPS, 0.5) - EPS
    near(found, jnp.broadcast_to(found[:, :1, :1], found.shape))
    many = denoise.offset_noise(
        example_keys(jax.random.key(2), 4000), jnp.zeros((4000, 1, 1, 2)), 0.5
    )
    near(many.std((0, 1, 2)), 0.5, 0.02)
    assert abs(np.corrcoef(many[:, 0, 0].T)[0, 1]) < 0.05


def test_input_perturbation():
    found = (denoise.perturbed(RNG, EPS, 0.1) - EPS) / 0.1
    assert 0.7 < found.std() < 1.3 and abs(np.corrcoef(found.ravel(), EPS.ravel())[0, 1]) < 0.4


def test_guidance():
    seen = []

    def model(x, time):
        seen.append((x.shape, np.asarray(time).tolist()))
        word = jnp.array([1.0, 10.0, 2.0, 20.0])  # negative and positive of rows 0 and 1
        return jnp.broadcast_to(word[:, None], x.shape)

    x = jnp.zeros((2, 3))
    found = guidance.guided(model, 3.0)(x, jnp.array([5.0, 6.0]))
    near(found, [[1 + 3 * 9.0] * 3, [2 + 3 * 18.0] * 3])
    assert seen == [((4, 3), [5, 5, 6, 6])]
    near(guidance.pairs(jnp.array([1, 2]), jnp.array([10, 20])), [1, 10, 2, 20])
    near(guidance.guided(model, 1.0)(x, jnp.zeros(2)), [[10.0] * 3, [20.0] * 3])


def test_guidance_keeps_the_positive_variance():
    def both(x, time):  # row 0: 0, 1, 2, 3; row 1: 1, 2, 3, 4; ...
        return jnp.arange(4.0) + jnp.arange(len(x))[:, None]

    found = guidance.guided(both, 5.0, 0.7)(jnp.zeros((2, 2)), jnp.zeros(2))
    near(found[:, 2:], [[3, 4], [5, 6]])


def test_guidance_is_rescaled_to_the_positive_condition():
    def model(x, time):  # rows are negative, positive
        return jnp.array([[1.0, 2.0, 3.0], [2.0, 6.0, 10.0]], jnp.bfloat16)

    mixed, deviation = np.array([3.0, 10.0, 17.0]), np.std([2.0, 6.0, 10.0])
    found = guidance.guided(model, 2.0, 0.25)(jnp.zeros((1, 3)), jnp.zeros(1))
    near(found, [(0.25 * deviation / mixed.std() + 0.75) * mixed], 1e-5)


def test_rescaled_guidance_has_the_positive_deviation():
    found = guidance.rescaled(7 * X0 + 1, EPS, 1.0)
    near(found.std((1, 2, 3)), EPS.std((1, 2, 3)), 1e-5)
    near(guidance.rescaled(7 * X0, EPS, 0.0), 7 * X0)
    assert np.isfinite(guidance.rescaled(jnp.zeros_like(X0), EPS, 0.7)).all()


@pytest.mark.parametrize(
    "most, wanted", [(1.0, [0.5, -1, 1]), (1.5, [1 / 3, -1, 2 / 3]), (100, [0.25, -1, 0.5])]
)
def test_dynamic_threshold(most, wanted):
    x0 = jnp.array([[0.5, -2, 1], [0.1, 0.2, -0.3]])
    near(thresholds.dynamic(x0, 1.0, most), [wanted, [0.1, 0.2, -0.3]])
    near(thresholds.static(x0, 0.4), jnp.clip(x0, -0.4, 0.4))


def test_posterior_is_bayes_rule():
    """Of scalars: the product of q(x | x') and q(x' | x0), by its parameters."""
    here, there, x0, x = np.array([0.3]), np.array([0.7]), 0.8, -0.4
    found = variance.posterior(here, there)
    step = here / there
    precision = step / (1 - step) + 1 / (1 - there)
    mean = (np.sqrt(step) * x / (1 - step) + np.sqrt(there) * x0 / (1 - there)) / precision
    near(np.exp(found.small), 1 / precision)
    near(found.clean * x0 + found.noisy * x, mean)
    near(np.exp(found.large), 1 - step)


def test_grey_levels_share_all_probability():
    levels = jnp.arange(256) / 127.5 - 1
    found = variance.log_likelihood(levels, jnp.float32(0.3), jnp.log(jnp.float32(0.04)))
    near(jnp.exp(found).sum(), 1, 1e-5)
    inner = norm.logpdf(levels[1:-1], 0.3, 0.2) + jnp.log(2 / 255)
    near(found[60:200], inner[59:199], 2e-3)


def test_variational_bound():
    """Bits per dimension: 0 where network and posterior agree; the bound at t > 0 is a KL of two
    Gaussians; the mean has no gradient."""
    time = jnp.array([0, 300, 800])
    at = denoise.level(SD, time, X0)
    x = denoise.noised(X0, EPS, at)
    run = lambda found, spread: variance.bound(SD, time, X0, x, found, spread)  # noqa: E731
    small = jnp.full_like(x, -1.0)
    near(run(X0, small)[1:], 0)
    bar = SD.alpha_bar
    table = variance.posterior(bar, np.append(1.0, bar[:-1]))
    off, spread = X0 + 0.5, jnp.full_like(x, 0.2)
    p = np.exp(0.6 * table.large[300] + 0.4 * table.small[300])
    q, gap = np.exp(table.small[300]), 0.5 * table.clean[300]
    kl = 0.5 * (np.log(p / q) + (q + gap**2) / p - 1) / np.log(2)
    np.testing.assert_allclose(run(off, spread)[1], kl, rtol=1e-3)
    gradient = jax.grad(lambda f, s: run(f, s).sum(), (0, 1))(off, spread)
    assert not gradient[0].any() and gradient[1][1:].all()

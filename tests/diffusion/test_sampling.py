"""The one scan with every sampler: against diffusers' ends, closed forms, and itself."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
import make_diffusion_golden as golden

from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError
from vlp_jax.core.rng import example_keys
from vlp_jax.diffusion import denoise
from vlp_jax.diffusion.how import Drawing
from vlp_jax.diffusion.sample import Given, noise_of_start, sample, steps_of
from vlp_jax.diffusion.samplers.base import Sampler
from vlp_jax.diffusion.schedules import Schedule

ALL = sorted(golden.SETTINGS)
DOWN = [name for name in ALL if name != "ddim_inverse"]
ENDS = np.load(golden.FILE)
SHAPE, SD = (2, 2, 3), Schedule()


def keys(count, seed=0):
    return example_keys(jax.random.key(seed), count)


def draw(model, schedule=SD, rng=None, shape=SHAPE, given=None, **how):
    """One jitted call."""
    how = Drawing(**{"guided": False, "steps": 4} | how)
    rng = keys(2) if rng is None else rng
    fn = jax.jit(lambda how, rng, given: sample(model, schedule, how, rng, shape, Given(**given)))
    return np.asarray(fn(how, rng, given or {}))


def test_the_files_are_the_samplers():
    assert dispatch.names("diffusion.samplers") == ALL
    for name in ALL:
        assert isinstance(Drawing(sampler=name).make(), Sampler)


@pytest.mark.parametrize("case", golden.CASES, ids=str)
def test_ends_where_diffusers_does(case):
    case = golden.CASES[golden.CASES.index(case)]
    name, prediction, spacing, karras = case
    model = lambda x, time: golden.toy(prediction, x, time[:, None, None, None], jnp)  # noqa: E731
    given = {}
    if name == "ddim_inverse":
        given = {"image": noise_of_start(golden.RNG, golden.SHAPE)}
    found = draw(model, Schedule(prediction=prediction), golden.RNG, golden.SHAPE, given,
                 sampler=name, steps=golden.STEPS, spacing=spacing, karras=karras)  # fmt: skip
    wanted = ENDS["-".join(map(str, case))]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def perfect(schedule, mean, deviation):
    """The best network for pictures N(mean, deviation^2), given times that are whole or not."""
    table = jnp.asarray(schedule.sigmas, jnp.float32)

    def model(x, time):
        sigma = jnp.interp(time, jnp.arange(len(table)), table)[:, None, None, None]
        alpha = 1 / jnp.sqrt(1 + sigma**2)
        share = deviation**2 / (deviation**2 + sigma**2)
        x0 = mean + share * (x / alpha - mean)
        return denoise.target(schedule.prediction, x0, (x / alpha - x0) / sigma,
                              denoise.Level(alpha, sigma * alpha))  # fmt: skip

    return model


@pytest.mark.parametrize("name", DOWN)
def test_one_picture_is_found_again(name):
    """Of a set of one picture the best network is sure, and so is every sampler."""
    schedule = Schedule(last_is_one=True)
    picture = jnp.arange(12.0).reshape(SHAPE) / 6 - 1
    found = draw(perfect(schedule, picture, 0.0), schedule, sampler=name)
    np.testing.assert_allclose(found, np.stack([picture] * 2), rtol=0, atol=1e-4)


def flow_error(name, steps, karras):
    """Largest distance from the end of the probability flow, along which (x - alpha mean) / sqrt(
    alpha^2 d^2 + sigma^2) never changes."""
    mean, deviation = 0.3, 0.5
    schedule = Schedule(prediction="v", last_is_one=True)
    begun = noise_of_start(keys(4), SHAPE)
    how = dict(sampler=name, steps=steps, spacing="leading", karras=karras)
    plan = Drawing(**how).make().plan(schedule, steps, "leading", karras)
    alpha, sigma = plan.table["alpha"][0], plan.table["sigma"][0]
    still = (begun * plan.start - alpha * mean) / np.hypot(alpha * deviation, sigma)
    found = draw(perfect(schedule, mean, deviation), schedule, keys(4), **how)
    return np.abs(found - (mean + deviation * still)).max()


@pytest.mark.parametrize(
    "name, karras, most, gain",
    [
        ("ddim", False, 0.2, 3),
        ("pndm", False, 0.1, 4),
        ("euler", True, 0.2, 3),
        ("heun", True, 0.02, 2.5),  # its last step, from sigma 0.04 to 0, is Euler's: 0.004
        ("dpm_solver", True, 0.025, 8),
    ],
)
def test_more_steps_are_nearer_to_the_flow(name, karras, most, gain):
    """By the sampler's order: four times the steps, `gain` times nearer."""
    few, many = flow_error(name, 20, karras), flow_error(name, 80, karras)
    assert few < most and few / many > gain, (few, many)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "lcm", "euler_ancestral", "dpm_solver_sde"])
def test_drawn_pictures_are_spread_as_the_data(name):
    """lcm's network is one that is sure: a consistency model of one picture."""
    mean, deviation = 0.3, 0.0 if name == "lcm" else 0.5
    schedule = Schedule(prediction="v", last_is_one=True)
    steps = 4 if name == "lcm" else 500  # divides T
    found = draw(perfect(schedule, mean, deviation), schedule, keys(16), (16, 16, 3), sampler=name,
                 steps=steps, spacing="trailing", eta=1.0)  # fmt: skip
    np.testing.assert_allclose(found.mean(), mean, atol=0.015)
    np.testing.assert_allclose(found.std(), deviation, atol=0.015)


def test_inversion_finds_the_noise_of_a_picture():
    schedule = Schedule(prediction="v")
    model = perfect(schedule, 0.3, 0.5)
    image = 0.3 + 0.5 * denoise.noise(keys(2, 5), SHAPE)
    noise = draw(model, schedule, given={"image": image}, sampler="ddim_inverse", steps=100)
    again = draw(model, schedule, given={"start": noise}, steps=100)
    np.testing.assert_allclose(again, image, rtol=0, atol=0.05)
    assert 0.5 < noise.std() < 1.5 and np.abs(noise - image).mean() > 0.3


class Counted:
    """A network that counts how often it is traced and, running, called."""

    def __init__(self):
        self.traced, self.called = 0, 0

    def __call__(self, x, time, word=0.0):
        self.traced += 1
        jax.debug.callback(lambda _: setattr(self, "called", self.called + 1), time[0])
        return 0.9 * jnp.tanh(x + word) + 0.05 * jnp.sin(time / 100)[:, None, None, None]


@pytest.mark.parametrize("name", ["pndm", "heun"])
def test_one_program_whatever_is_asked(name):
    """Prompts, seeds, guidance, rescaling and strength run the same program (P22)."""
    model = Counted()

    @jax.jit
    def run(how, words, rng, image, mask):
        words = words[:, None, None, None]
        asked = lambda x, time: model(x, time, words)  # noqa: E731
        return sample(asked, SD, how, rng, SHAPE, Given(image, mask))

    image, mask, found = jnp.ones((2, *SHAPE)), jnp.ones((2, 2, 2, 1)), []
    for seed in range(5):
        how = Drawing(sampler=name, steps=5, guidance=1.5 + seed, rescale=0.1 * seed,
                      strength=1 - 0.2 * seed, eta=0.1 * seed)  # fmt: skip
        found.append(run(how, jnp.arange(4.0) * seed, keys(2, seed), image, mask))
    assert run._cache_size() == 1 and model.traced == 1
    assert len({float(x.sum()) for x in found}) == 5
    run(Drawing(sampler=name, steps=5, guided=False), jnp.zeros(2), keys(2), image, mask)
    assert run._cache_size() == 2


@pytest.mark.parametrize("name", ALL)
def test_a_row_does_not_depend_on_its_batch(name):
    """Nor on a row that is not a number."""
    image = denoise.noise(keys(3, 9), SHAPE)
    how = Drawing(sampler=name, steps=4, guidance=3.0, rescale=0.7, eta=0.5, strength=0.8)
    model = lambda x, time: jnp.tanh(x + time[:, None, None, None])  # noqa: E731
    run = jax.jit(lambda rng, image: sample(model, SD, how, rng, SHAPE, Given(image)))
    whole, ill = (np.asarray(run(keys(3), x)) for x in (image, image.at[1].set(jnp.nan)))
    assert len({row.tobytes() for row in whole}) == 3
    alone = run(keys(3)[2:], image[2:])
    np.testing.assert_allclose(whole[2:], alone, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ill[[0, 2]], whole[[0, 2]])
    assert np.isnan(ill[1]).all()


@pytest.mark.parametrize("name", ALL)
def test_strength_is_the_share_of_steps(name):
    """Calls are counted; at 0 the picture comes back; a weak start stays near it."""
    model = Counted()
    image = jnp.linspace(-1, 1, 24).reshape(2, *SHAPE)
    how = lambda strength: Drawing(sampler=name, steps=10, guided=False, strength=strength)  # noqa: E731
    run = jax.jit(lambda how: sample(model, SD, how, keys(2), SHAPE, Given(image=image)))
    far = []
    for strength, steps in ((0.0, 0), (0.05, 0), (0.1, 1), (0.29, 2), (0.3, 3), (1.0, 10)):
        before, found = model.called, np.asarray(run(how(strength)))
        jax.effects_barrier()
        extra = {"heun": max(steps - 1, 0), "pndm": int(steps > 1)}.get(name, 0)
        assert model.called - before == steps + extra, strength
        far.append(np.abs(found - image).mean())
    assert far[:2] == [0, 0] and 0 < far[2] < far[-1]
    assert model.traced == 1


def test_shares_of_steps_are_rounded_down_as_on_paper():
    for steps in (1, 20, 50, 75, 100, 1000):
        percent = np.arange(101)
        found = [int(steps_of(steps, p / 100)) for p in percent[::7]]
        assert found == (steps * percent[::7] // 100).tolist()


@pytest.mark.parametrize("name", DOWN)
def test_kept_pixels_are_kept_to_the_last_bit(name):
    image = denoise.noise(keys(2, 3), SHAPE)
    mask = jnp.zeros((2, *SHAPE[:2], 1)).at[:, 0].set(1)
    given = {"image": image, "mask": mask}
    found = draw(Counted(), given=given, sampler=name, steps=5)
    np.testing.assert_array_equal(found[:, 1], image[:, 1])
    assert np.abs(found[:, 0] - image[:, 0]).min() > 1e-3


def test_all_of_it_painted_over_is_no_mask_at_all():
    image = denoise.noise(keys(2, 3), SHAPE)
    full = draw(Counted(), given={"image": image, "mask": jnp.ones((2, *SHAPE[:2], 1))})
    np.testing.assert_allclose(full, draw(Counted()), rtol=0, atol=1e-6)


def test_zero_terminal_snr_begins_at_the_last_time():
    times = []

    def model(x, time):
        jax.debug.callback(lambda t: times.append(float(t)), time[0], ordered=True)
        return -0.5 * jnp.ones_like(x)

    draw(model, Schedule(zero_snr=True, prediction="v"))
    jax.effects_barrier()
    assert times == [999, 749, 499, 249]


@pytest.mark.parametrize("renoise", [True, False])
@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_thresholds_bound_the_picture(threshold, renoise):
    how = dict(sampler="ddpm", threshold=threshold, most=1.0, renoise=renoise)
    wild = lambda x, time: -5 * jnp.ones_like(x)  # noqa: E731
    assert np.abs(draw(wild, **how)).max() <= 1 + 1e-6
    assert np.abs(draw(wild, sampler="ddpm")).max() > 1.5


def test_a_learned_variance_is_used():
    low, high = (
        draw(lambda x, time: jnp.concatenate([0.5 * x, at * jnp.ones_like(x)], -1), sampler="ddpm",
             rng=keys(8))
        for at in (-1.0, 1.0)
    )  # fmt: skip
    small = draw(lambda x, time: 0.5 * x, sampler="ddpm", rng=keys(8))
    large = draw(lambda x, time: 0.5 * x, sampler="ddpm", rng=keys(8), variance="large")
    np.testing.assert_allclose(low, small, rtol=0, atol=1e-5)
    np.testing.assert_allclose(high, large, rtol=0, atol=1e-5)
    assert np.abs(low - high).max() > 0.01


@pytest.mark.parametrize(
    "how, given, what",
    [
        (dict(sampler="eulre"), {}, "sampler: unknown 'eulre'; did you mean 'euler'"),
        (dict(steps=0), {}, "steps=0: must be at least 1"),
        (dict(sampler="lcm", steps=51), {}, "steps=51: lcm takes at most"),
        (dict(sampler="ddim_inverse"), {}, "^image: the sampler starts from a picture; give one"),
        (
            {},
            {"mask": jnp.ones((2, 2, 2, 1))},
            "^image: a mask is painted over in a picture; give one",
        ),
        ({}, {"image": jnp.ones((2, 3, 2, 3))}, r"image is of shape \(3, 2, 3\), it must be"),
        ({}, {"image": jnp.ones((2, 2, 2, 3)), "mask": jnp.ones((2, 2, 2, 3))}, "mask is of shape"),
    ],
)
def test_one_line_for_bad_input(how, given, what):
    with pytest.raises(UserError, match=what) as error:
        draw(Counted(), given=given, **how)
    assert "\n" not in str(error.value)


def test_a_network_of_other_channels():
    with pytest.raises(UserError, match="the network gives 4 channels; it must give 3, or 6"):
        draw(lambda x, time: jnp.ones((*x.shape[:-1], 4)))

"""Schedules and spacings against the numbers of the papers' released code (ldm.md 3.2 and 5)."""

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.diffusion.how import Drawing
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.diffusion.spacing import by_gap, karras_sigmas, time_of, times
from vlp_jax.diffusion.variance import posterior

SD = Schedule()
DDPM = Schedule("linear", 1e-4, 0.02)
GOLDEN = [  # alpha_bar at 0, 500 and 999, the largest sigma
    (SD, 0.99915, 0.276333, 4.660099e-3, 14.6146),
    (Schedule(start=0.0015, end=0.0195), 0.9985, 0.114922, 1.423040e-4, 83.8225),
    (Schedule(start=0.0015, end=0.0155), 0.9985, 0.150070, 6.686652e-4, 38.6590),
    (Schedule(start=0.0015, end=0.0205), 0.9985, 0.107677, 9.691087e-5, 101.5764),
    (DDPM, 0.9999, 0.077797, 4.035830e-5, 157.41),
    (Schedule("linear", 0.00085, 0.012), 0.99915, 0.16077160, 1.578963e-3, 25.1461),
    (Schedule("cosine"), 0.999959, 0.492285, 2.428767e-9, 20291.1),
]


@pytest.mark.parametrize("schedule, first, middle, last, sigma", GOLDEN)
def test_golden_alpha_bars(schedule, first, middle, last, sigma):
    found = schedule.alpha_bar[[0, 500, 999]]
    np.testing.assert_allclose(found, [first, middle, last], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[2], last, rtol=1e-6)
    np.testing.assert_allclose(schedule.sigmas[-1], sigma, rtol=3e-5)
    assert (np.diff(schedule.alpha_bar) < 0).all() and len(schedule.alpha_bar) == 1000


def test_zero_terminal_snr():
    found = Schedule(zero_snr=True, prediction="v")
    assert found.alpha_bar[-1] == 0 and np.isclose(found.alpha_bar[0], SD.alpha_bar[0])
    np.testing.assert_allclose(found.alpha_bar[500], 0.24101878, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.sigmas[-1], 4096, rtol=1e-6)  # as diffusers' 2^-24
    with pytest.raises(UserError, match="prediction='eps': not with zero_snr=True"):
        Schedule(zero_snr=True)


def plan(name, schedule=SD, steps=50, spacing="leading", karras=False):
    return Drawing(sampler=name).make().plan(schedule, steps, spacing, karras)


def told(name, **how):
    """Whole times that the network is told, rows as the scan walks them."""
    made = plan(name, **how)
    sampler = Drawing(sampler=name).make()
    rows = [int(sampler.row(np.int32(call), np.int32(call))) for call in range(made.calls)]
    return made.table["time"][rows].tolist()


def test_golden_times():
    assert told("ddim") == list(range(981, 0, -20))
    assert told("euler") == list(range(981, 0, -20))
    found = told("pndm")
    assert found[:4] == [981, 961, 961, 941] and found[-1] == 1 and len(found) == 51
    assert told("ddim", spacing="trailing") == list(range(999, 0, -20))
    linspace = told("ddim", spacing="linspace")
    assert linspace[:3] == [999, 979, 958] and linspace[-2:] == [20, 0]
    found = told("dpm_solver", spacing="linspace", steps=20)
    assert found[:3] == [999, 949, 899] and found[9:12] == [549, 500, 450] and found[-1] == 50
    assert told("ddim_inverse")[:2] == [1, 21]
    assert told("lcm", steps=4) == [999, 759, 499, 259]
    assert told("heun", steps=3) == [667, 334, 334, 1, 1]


def test_ends():
    end = lambda *how, **more: plan(*how, **more).table["alpha_next"][-1] ** 2  # noqa: E731
    for name in ("ddim", "ddim_inverse"):
        last = -1 if name == "ddim" else 0
        row = plan(name).table["alpha_next" if name == "ddim" else "alpha"]
        np.testing.assert_allclose(row[last] ** 2, SD.alpha_bar[0])
    assert end("ddim", Schedule(last_is_one=True)) == 1
    for name in ("ddpm", "euler", "euler_ancestral", "dpm_solver", "dpm_solver_sde", "lcm"):
        assert end(name) == 1


def test_where_sampling_begins():
    assert plan("euler").start == plan("ddim", spacing="linspace").start == 1
    sigma = 14.6146469  # diffusers' init_noise_sigma, of x / alpha
    for karras in (False, True):
        found = plan("euler", spacing="linspace", karras=karras)
        np.testing.assert_allclose(found.start / found.table["alpha"][0], sigma, rtol=1e-6)


def test_karras_sigmas():
    found = karras_sigmas(14.6, 0.03, 5)
    np.testing.assert_allclose(found[[0, -1]], [14.6, 0.03])
    np.testing.assert_allclose(np.diff(found, 2) > 0, True)
    np.testing.assert_allclose(np.diff(found ** (1 / 7), 2), 0, atol=1e-12)
    np.testing.assert_allclose(time_of(SD.sigmas[[0, 7, 999]], SD.sigmas), [0, 7, 999])


@pytest.mark.parametrize(
    "steps, spacing, schedule, what",
    [
        (1000, "leading", SD, "asks for time 1000 of 0 to 999; set fewer, another spacing"),
        (1001, "trailing", SD, "steps=1001: the sampler takes at most 1000 with trailing spacing"),
        (1001, "linspace", SD, "steps=1001: the sampler takes at most 1000 with linspace spacing"),
        (1001, "leading", SD, "steps=1001: the sampler takes at most 1000 with leading spacing"),
    ],
)
def test_too_many_steps(steps, spacing, schedule, what):
    with pytest.raises(UserError, match=what):
        times(schedule, steps, spacing)


def test_a_sampler_that_asks_for_one_more_time_names_the_steps_that_were_asked():
    with pytest.raises(UserError, match=r"^steps=1000: the sampler takes at most 999 with linsp"):
        Drawing(sampler="dpm_solver").make().plan(SD, 1000, "linspace", False)


def test_as_many_steps_as_times():
    whole = list(range(999, -1, -1))
    for spacing in ("leading", "linspace", "trailing"):
        assert times(Schedule(offset=0), 1000, spacing).tolist() == whole


@pytest.mark.parametrize("name", ["ddim", "ddpm", "pndm", "lcm", "ddim_inverse"])
def test_no_karras_sigmas_on_whole_times(name):
    with pytest.raises(UserError, match=f"karras=True: sampler '{name}'"):
        plan(name, karras=True)


def test_ddim_draws_as_much_as_ddpm_at_eta_1():
    schedule = Schedule()
    drawn = Drawing(sampler="ddim").make().plan(schedule, 10, "leading", False).table["drawn"]
    grid = by_gap(schedule, 10, "leading")
    np.testing.assert_allclose(drawn, np.exp(posterior(grid.here, grid.there).small / 2), rtol=1e-6)

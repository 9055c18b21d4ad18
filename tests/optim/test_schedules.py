"""Schedules and durations against their formulas."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.optim.schedules import SHAPES, duration, make_schedule


def values(name, peak=2.0, total=100, warmup=10, final=0.0):
    schedule = make_schedule(name, peak, total, warmup, final)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(total + 1)))


@pytest.mark.parametrize("name", SHAPES)
def test_warm_up_is_open_clips_and_the_peak_follows(name):
    found = values(name)
    np.testing.assert_allclose(found[:10], 2.0 * (np.arange(10) + 1) / 10, rtol=1e-6)
    assert found[10] == pytest.approx(2.0) and found.max() == pytest.approx(2.0)
    assert (np.diff(found[10:]) <= 1e-7).all()


def test_cosine_equals_open_clips_formula_and_optax():
    found = values("cosine")
    steps = np.arange(10, 100)
    wanted = 0.5 * (1 + np.cos(np.pi * (steps - 10) / 90)) * 2.0
    np.testing.assert_allclose(found[10:100], wanted, atol=1e-6)
    reference = optax.cosine_decay_schedule(2.0, 90)
    np.testing.assert_allclose(found[10:], [reference(i) for i in range(91)], atol=1e-6)


def test_other_shapes_at_chosen_steps():
    assert values("linear")[55] == pytest.approx(1.0)
    assert set(values("constant")[10:]) == {2.0}
    found = values("rsqrt")
    assert found[-1] == pytest.approx(0.2)
    assert found[10 + 30] == pytest.approx(2.0 / math.sqrt(1 + 99 / 3))


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_floor_is_a_share_of_the_peak(name):
    found = values(name, final=0.1)
    assert found[-1] == pytest.approx(0.2) and found[10] == pytest.approx(2.0)
    assert make_schedule(name, 2.0, 100, 10, 0.1)(1000) == pytest.approx(0.2), "stays there"


def test_no_warm_up_starts_at_the_peak():
    assert values("cosine", warmup=0)[0] == pytest.approx(2.0)


def test_a_warm_up_longer_than_the_run_is_cut_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        found = values("cosine", total=20, warmup=30)
    assert found.max() == pytest.approx(2.0) and found[1] == pytest.approx(2.0)
    assert "30 steps do not fit in 20" in caplog.text


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"optim\.schedule: unknown 'cosin'; did you mean 'cosine'"):
        make_schedule("cosin", 1.0, 10, 1)


@pytest.mark.parametrize(
    "config, steps",
    [
        ({"steps": 7}, 7),
        ({"steps": 7, "examples": 100}, 7 - 3),  # 100 / 32, rounded up
        ({"steps": 7, "examples": 100, "epochs": 2.0}, 63),  # 2 x 1000 / 32, rounded up
        ({"epochs": 0.5}, 16),
        ({"examples": 64}, 2),
        ({}, 0),
    ],
)
def test_durations(config, steps):
    assert duration(config, "", 32, 1000) == steps
    warmup = {f"warmup_{key}": value for key, value in config.items()}
    assert duration(warmup, "warmup_", 32, 1000) == steps


def test_a_rate_by_epochs_stays_within_one_and_counts_the_warm_up():
    """10.4 steps an epoch: steps 0 to 10 are the first, 11 to 20 the second, 21 the third."""
    how = dict(epoch=10.4, decay=0.5)
    falling = make_schedule("exponential", 8.0, 52, 4, 0.2, **how)
    found = [float(falling(step)) for step in (0, 3, 4, 10, 11, 20, 21, 51)]
    assert found == pytest.approx([2, 8, 8, 8, 4, 4, 2, 1.6])
    cosine = make_schedule("cosine", 1.0, 50, 5, epoch=10.0)
    wanted = [0.5 * (1 + math.cos(math.pi * epoch / 5)) for epoch in (0, 1, 2, 4)]
    assert [float(cosine(step)) for step in (9, 10, 29, 49)] == pytest.approx(wanted)
    with pytest.raises(UserError, match=r"exponential: falls by epochs; set optim.lr_by_epoch"):
        make_schedule("exponential", 1.0, 10, 1)

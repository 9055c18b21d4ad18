"""One step on a method small enough to compute by hand (test_step.py has the real towers).

The file exists because whole training runs would not notice a factor, a key or a hook that is lost.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Numbers
from vlp_jax.core.inputs import Aux
from vlp_jax.methods.base import Leaf, Method, Part
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.optim.schedules import make_schedule
from vlp_jax.train.state import Recipe, eval_params, init_state, restate
from vlp_jax.train.step import make_step

B, LR = 4, 0.5
START = {"a": {"w": jnp.ones(3)}, "b": {"w": jnp.full(3, 2.0)}, "c": jnp.float32(9.0)}
BATCH = {"x": jnp.float32(np.random.default_rng(0).normal(size=(B, 3)))}


@dataclasses.dataclass(frozen=True)
class Linear(Method):
    """loss = mean x . (a + b) + c; its gradient is the mean of x, whatever the parameters."""

    def fields(self):
        return {"x": Numbers((3,))}

    def parts(self):
        return {name: Part(Leaf(lambda _, leaf=leaf: leaf)) for name, leaf in START.items()}

    def state(self, v, rng):
        return {"seen": jnp.float32(0), "copy": v.params["c"] + 0.0}

    def encode(self, v, x):
        noise = jax.vmap(lambda key: jax.random.normal(key, ()))(x.rng)
        return x.batch["x"] @ (v.params["a"]["w"] + v.params["b"]["w"]), Aux({"noise": noise[0]})

    def objective(self, v, rows, x):
        return x.share(rows) + v.params["c"], Aux()

    def project(self, params):
        return {**params, "c": jnp.clip(params["c"], 8.75, 10)} if "c" in params else params

    def follow(self, v, step):
        return {"seen": v.params["a"]["w"][0]}


def train(steps=1, optim=None, batch=BATCH, **recipe):
    """(states, metrics, frozen weights) of some steps of plain gradient descent."""
    config = {"name": "sgd", "momentum": 0.0, "clip_norm": 0.0, **(optim or {})}
    recipe = Recipe(**{"seed": 0, "batch_size": B, **recipe})
    method, tx = Linear(), make_optimizer(config)
    state, frozen = init_state(method, tx, recipe)
    schedule = make_schedule("constant", LR, 100, 0)
    factors = lr_factors(config, state["params"])
    step = jax.jit(make_step(method, tx, schedule, factors, recipe))
    states, metrics = [state], []
    for _ in range(steps):
        state, logged = step(state, frozen, batch)
        states.append(state)
        metrics.append(logged)
    return states, metrics, frozen


MEAN = np.asarray(BATCH["x"]).mean(0)


def test_an_update_is_lr_times_factor_times_gradient():
    optim = {"lr_groups": (("a/.*", 0.1), ("b/.*", 0.0))}
    (before, after), (logged,), _ = train(optim=optim)
    np.testing.assert_allclose(after["params"]["a"]["w"], 1 - 0.1 * LR * MEAN, rtol=1e-6)
    np.testing.assert_array_equal(after["params"]["b"]["w"], before["params"]["b"]["w"])
    assert float(logged["grad_norm"]) == pytest.approx(np.sqrt((MEAN**2).sum() + 1), rel=1e-6)
    assert float(logged["lr"]) == LR and int(after["step"]) == 1


@pytest.mark.parametrize("group, norm", [((), 2), ((("b/.*", 0.0),), 1), ((("b/.*", 0.1),), 2)])
def test_weights_that_do_not_learn_count_in_no_clipped_norm(group, norm):
    """a and b have one gradient; c's is 1 and b's may be anything where its rate is 0."""
    optim = {"lr_groups": (*group, ("c", 0.0)), "clip_norm": 0.1}
    (before, after), (logged,), _ = train(optim=optim)
    length = np.sqrt(norm * (MEAN**2).sum())
    assert length > 0.1 and float(logged["grad_norm"]) == pytest.approx(length, rel=1e-6)
    step = np.asarray(before["params"]["a"]["w"]) - after["params"]["a"]["w"]
    np.testing.assert_allclose(step, LR * 0.1 * MEAN / length, rtol=1e-4)
    assert float(after["params"]["c"]) == 9.0


def test_projection_and_follow_see_the_new_parameters():
    after = train()[0][-1]
    assert float(after["params"]["c"]) == 8.75, "9 - 0.5 x 1, then clipped from below"
    assert float(after["extra"]["seen"]) == float(after["params"]["a"]["w"][0]) != 1.0


def test_each_step_and_seed_draws_its_own_noise():
    noise = [float(m["noise"]) for m in train(3)[1]]
    assert len(set(noise)) == 3
    assert [float(m["noise"]) for m in train(3)[1]] == noise
    assert float(train(1, seed=1)[1][0]["noise"]) != noise[0]


def test_the_moving_average_warms_up_and_is_what_evaluation_sees():
    decay = 0.15
    states, _, frozen = train(3, ema_decay=decay, freeze=("b/.*",))
    average = np.asarray(START["a"]["w"])
    for number, state in enumerate(states[1:]):
        rate = min(decay, (1 + number) / (10 + number))  # 0.1, then 0.15
        average = rate * average + (1 - rate) * np.asarray(state["params"]["a"]["w"])
        np.testing.assert_allclose(state["ema"]["a"]["w"], average, rtol=1e-6)
    seen = eval_params(states[-1], frozen)
    np.testing.assert_array_equal(seen["a"]["w"], states[-1]["ema"]["a"]["w"])
    np.testing.assert_array_equal(seen["b"]["w"], START["b"]["w"])
    (_, without), _, frozen = train(freeze=("b/.*",))
    assert eval_params(without, frozen)["a"] is without["params"]["a"] and without["ema"] == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_a_step_that_is_not_finite_changes_only_the_counters(value):
    """1e25: a finite loss, but the squared norm of its gradient overflows."""
    batch = {"x": jnp.full((B, 3), value, jnp.float32)}
    optim = {"name": "adamw", "weight_decay": 0.1}
    before, *_, after = train(2, optim, batch, ema_decay=0.9)[0]
    counters = {"step": 2, "skipped": 2, "skipped_in_row": 2}
    assert {name: int(after[name]) for name in counters} == counters
    for name in before.keys() - counters.keys():
        jax.tree.map(np.testing.assert_array_equal, after[name], before[name])


def test_frozen_leaves_keep_their_bits_and_get_no_optimiser_state():
    (_, *_, after), _, frozen = train(
        3, {"name": "adamw", "weight_decay": 0.5}, freeze=("a/.*", "c")
    )
    assert set(after["params"]) == {"b"} and set(frozen) == {"a", "c"}
    assert (after["params"]["b"]["w"] != START["b"]["w"]).all()
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(after["opt"]))
    assert sizes == [1, 3, 3], "a count and two moments of b"


@pytest.mark.parametrize(
    "freeze, message",
    [(("a",), "freeze: 'a' matches no parameter"), ((".*",), "nothing is left to train")],
)
def test_freezing_nothing_or_everything_is_refused(freeze, message):
    with pytest.raises(UserError, match=message):
        train(freeze=freeze)


def test_weights_in_the_place_of_the_first_ones_make_state_and_average_anew():
    method, recipe = Linear(), Recipe(0, B, ema_decay=0.9, freeze=("b/.*", "c"))
    state, frozen = init_state(method, make_optimizer({}), recipe)
    params, frozen = jax.tree.map(lambda x: x + 1, (state["params"], frozen))
    extra = {**state["extra"], "seen": jnp.float32(5)}
    made = restate(method, recipe, {**state, "params": params, "extra": extra}, frozen)
    assert set(made) == {"extra", "ema"}
    assert made["extra"] == {"seen": 0, "copy": 10} != state["extra"]
    np.testing.assert_array_equal(made["ema"]["a"]["w"], np.full(3, 2.0))
    assert made["ema"]["a"]["w"] is not params["a"]["w"]

"""Phases: two players with optimisers of their own, against two optimisers in a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import CONFIG, ROOT, digests, make_pictures
from tiny import tiny_batch, tiny_method
from toy_methods.duel import Duel

from vlp_jax.api.config import load_config
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import flatten, merge
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.optim.optimizer import make_optimizer
from vlp_jax.optim.players import factors_of, optimizers
from vlp_jax.parallel import mesh as meshes
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train import trainer as trainers
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.loop import Loop
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step

B = 16
OPTIM = dict(name="adamw", b1=0.5, clip_norm=0.0, lr_groups=(("bend", 0.5),))
OPTIM |= dict(players={"critic": {"name": "sgd", "momentum": 0.0, "lr_groups": ()}})
SCHEDULES = {"maker": lambda k: jnp.float32(1e-2), "critic": lambda k: 1e-2 * (k + 1)}


def parts(method, phases=None, **recipe):
    """(first state and frozen weights, step) of a duel."""
    configs = optimizers(OPTIM, tuple(method.players()))
    tx = {player: make_optimizer(config) for player, config in configs.items()}
    recipe = Recipe(3, B, **recipe)
    init = lambda: init_state(method, tx, recipe)  # noqa: E731
    state, frozen = jax.eval_shape(init)
    shares = method.share_out(state["params"])
    factors = factors_of(configs, shares, merge(state["params"], frozen))
    return init, make_step(method, tx, SCHEDULES, factors, recipe, phases)


def batch(seed):
    return {"image": jnp.asarray(tiny_batch(B, seed)["image"])}


def steps(method, count, **recipe):
    """(state, frozen, metrics of every step)."""
    init = parts(method, **recipe)[0]
    program = functools.cache(lambda phases: jax.jit(parts(method, phases, **recipe)[1]))
    (state, frozen), told = init(), []
    for seed in range(count):
        state, metrics = program(method.playing(seed))(state, frozen, batch(seed))
        told.append({name: float(value) for name, value in metrics.items()})
    return state, frozen, told


def check_equal(found, wanted, tolerance=2e-6):
    found = flatten(found)
    for path, leaf in flatten(wanted).items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-5, atol=tolerance, err_msg=path)


def by_hand(method, count):
    """Maker by Adam(0.5, 0.999) at half a rate for `bend`, then critic by gradient descent at a
    growing rate, from step `late` on, each gradient of its own parameters alone."""
    params, extra = method.fresh(jax.random.key(3))
    adam, told = optax.scale_by_adam(0.5, 0.999), []
    maker, critic = ({k: params[k] for k in names} for names in method.players().values())
    moments = adam.init(maker)
    for k in range(count):
        x = Inputs.of(batch(k), example_keys(step_key(3, k), B), step=jnp.int32(k), train=True)

        def make(maker, critic=critic, extra=extra, x=x):
            rows, _ = method.made(Vars(maker | critic, extra), x)
            loss, aux = method.make(Vars(maker | critic, extra), rows, x)
            return loss, aux.extra

        (loss, moved), slope = jax.value_and_grad(make, has_aux=True)(maker)
        direction, moments = adam.update(slope, moments)
        rate = {"pixels": 1e-2, "bend": 5e-3}
        maker = {name: maker[name] - rate[name] * direction[name] for name in maker}
        extra = lay(moved, extra)

        def judge(critic, maker=maker, extra=extra, x=x):
            rows, aux = method.judged(Vars(maker | critic, extra), x)
            return method.judge(Vars(maker | critic, extra), rows, x)[0], aux.extra

        (judged, moved), slope = jax.value_and_grad(judge, has_aux=True)(critic)
        if k >= method.late:
            critic = jax.tree.map(lambda p, g, k=k: p - 1e-2 * (k + 1) * g, critic, slope)
            critic["level"] = jnp.maximum(critic["level"], 0.69)
            extra = lay(moved, extra)
        told.append((float(loss), float(judged) if k >= method.late else 0.0))
    return maker | critic, extra, told


@pytest.mark.parametrize("late", [0, 2])
def test_two_players_are_two_optimisers_in_turn(late):
    method = Duel(late=late)
    params, extra, wanted = by_hand(method, 4)
    state, _, told = steps(method, 4)
    check_equal(state["params"], params)
    check_equal(state["extra"], extra)
    assert [(x["loss"], x.get("judge_loss", 0.0)) for x in told] == [
        pytest.approx(w, rel=1e-5) for w in wanted
    ]
    assert float(params["level"]) == pytest.approx(0.69), "the projection must show"
    assert told[-1]["lr"] == pytest.approx(1e-2) and told[-1]["judge_lr"] == pytest.approx(4e-2)
    assert {"size", "weight", "fake", "grad_norm", "judge_grad_norm"} <= told[-1].keys()
    assert ("judge_loss" in told[0]) == (late == 0), "of what was not played there is no word"
    first = method.fresh(jax.random.key(3)).params
    assert (np.abs(np.asarray(params["judge"] - first["judge"])) > 1e-3).any()


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_change_nothing(count):
    whole, _, wanted = steps(Duel(), 2, ema_decay=0.9)
    found, _, told = steps(Duel(), 2, ema_decay=0.9, accumulate=count)
    check_equal(found, {k: whole[k] for k in ("params", "ema", "extra")})
    for ours, theirs in zip(told, wanted, strict=True):
        assert ours == {name: pytest.approx(v, rel=1e-5, abs=1e-6) for name, v in theirs.items()}


@pytest.mark.parametrize("who", ["maker", "critic"])
def test_a_bad_turn_of_either_player_undoes_the_whole_step(who):
    init, step = parts(Duel(nan=who), ema_decay=0.9)
    (state, frozen), run = init(), jax.jit(step)
    state, _ = run(state, frozen, batch(0))
    after, metrics = run(state, frozen, batch(1))
    kept = ("params", "opt", "extra", "ema")
    assert digests({k: after[k] for k in kept}) == digests({k: state[k] for k in kept})
    assert int(after["step"]) == 2 and int(after["skipped"]) == 1 == int(metrics["skipped_in_row"])
    again, metrics = run(after, frozen, batch(2))
    assert int(metrics["skipped_in_row"]) == 0
    moved = digests(again["params"])
    assert all(moved[path] != digest for path, digest in digests(after["params"]).items()
               if path != "level")  # fmt: skip


def test_who_is_frozen_plays_no_turn():
    state, frozen, told = steps(Duel(), 2, freeze=("judge", "level"))
    assert state["opt"].keys() == {"maker"} and frozen.keys() == {"judge", "level"}
    assert "judge_loss" not in told[0] and "weight" in told[0]
    first = Duel().fresh(jax.random.key(3)).params
    check_equal(frozen, {name: first[name] for name in frozen}, 0)
    half, _, told = steps(Duel(), 2, freeze=("judge",))
    assert half["opt"].keys() == {"maker", "critic"} and "judge_loss" in told[0]


def test_players_are_sharded_like_everybody():
    init, step = parts(Duel())
    whole, _, _ = steps(Duel(), 2)
    mesh = meshes.make_mesh({"data": 2, "fsdp": 2, "tensor": 1}, jax.devices()[:4])
    places = param_sharding(jax.eval_shape(init), mesh, "fsdp")
    split = meshes.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        state, frozen = jax.jit(init, out_shardings=places)()
        how = dict(in_shardings=(*places, split), out_shardings=(places.state, None))
        run = jax.jit(step, **how)
        for seed in range(2):
            state, _ = run(state, frozen, jax.device_put(batch(seed), split))
    check_equal(state["params"], whole["params"])
    moments = flatten(state["opt"])
    assert not moments["maker/0/mu/pixels"].sharding.is_fully_replicated


def test_a_part_without_a_player_is_a_mistake_of_the_method():
    class Alone(Duel):
        def players(self):
            return {"maker": ("pixels", "bend"), "critic": ("judge", "bend")}

    with pytest.raises(TypeError, match=r"Alone\.players: bend needs just one player"):
        jax.eval_shape(lambda: init_state(Alone(), make_optimizer({}), Recipe(0, B)))


@pytest.fixture
def duel_trainer(tmp_path, monkeypatch):
    """duel_trainer(**overrides) -> Trainer of the toy."""
    data = make_pictures(tmp_path / "pictures", 20)
    toys, tests = ROOT / "tests" / "train" / "toy_methods", str(ROOT / "tests")
    own = f"""
    from vlp_jax import methods
    methods.__path__.append({str(toys)!r})
    c.method = ConfigDict(dict(name="duel", late=2))
    return c
"""
    file = tmp_path / "duel_config.py"
    text = CONFIG.format(tests=tests, data=str(data)).replace("    return c\n", own)
    file.write_text(text)
    one = jax.devices()[:1]
    monkeypatch.setattr(trainers, "make_mesh", lambda shape: meshes.make_mesh(shape, one))

    def make(**overrides):
        return trainers.Trainer(load_config(str(file), {"steps": "6", **overrides}))

    return make


def test_a_stop_before_the_critic_starts_repeats_every_bit(duel_trainer, tmp_path):
    def run(trainer, workdir, upto=6):
        workdir.mkdir(exist_ok=True)
        checkpoints = Checkpoints(workdir / "checkpoints")
        there = bool(checkpoints.steps())
        start = (checkpoints.restore(trainer.abstract.state), {}) if there else trainer.first()
        object.__setattr__(trainer, "steps", upto)
        loop = Loop(trainer, workdir, start, checkpoints)
        loop.run()
        return loop

    own = {"optim.players.critic.lr": "1e-2", "optim.players.critic.warmup_steps": "3"}
    whole = run(duel_trainer(**own), tmp_path / "whole")
    run(duel_trainer(**own), tmp_path / "parts", 1)
    again = run(duel_trainer(**own), tmp_path / "parts")
    assert again.start == 1 and digests(again.state) == digests(whole.state)
    other = run(duel_trainer(), tmp_path / "other")
    assert (other.state["params"]["judge"] != whole.state["params"]["judge"]).any()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            {"optim.players.critc.lr": "1"},
            "optim.players.critc: no such player; did you mean 'critic'",
        ),
        ({"optim.players.critic.lrr": "1"}, "optim.lrr: unknown key; did you mean 'lr'"),
        ({"optim.players.critic.b1": "1.5"}, "optim.players.critic.b1=1.5 is out of range"),
        ({"optim.players.critic.no_decay": "('(',)"}, "no regular expression"),
        ({"optim.players.critic.schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_a_players_settings_are_held_against_the_optimisers(duel_trainer, overrides, message):
    with pytest.raises(UserError, match=message):
        duel_trainer(**overrides)


def test_players_of_a_method_that_has_none_are_refused():
    players = tuple(tiny_method("rotation").players())
    with pytest.raises(UserError, match=r"optim\.players\.critic: no such player; the method has"):
        optimizers({"players": {"critic": {}}}, players)

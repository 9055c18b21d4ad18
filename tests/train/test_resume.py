"""R2, R7, R13, R14: a run stopped anywhere goes on bit for bit; bad steps change nothing."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import digests

from vlp_jax.core.errors import RunError
from vlp_jax.core.pytree import flatten
from vlp_jax.data.device import to_device
from vlp_jax.parallel.mesh import batch_sharding
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.loop import Loop


def run(trainer, workdir, checkpoints=None):
    """Trains from the newest checkpoint of the workdir to trainer.steps."""
    workdir.mkdir(exist_ok=True)
    checkpoints = checkpoints or Checkpoints(workdir / "checkpoints", keep=10)
    restored = bool(checkpoints.steps())
    start = (checkpoints.restore(trainer.abstract.state), {}) if restored else trainer.first()
    loop = Loop(trainer, workdir, start, checkpoints)
    loop.run()
    return loop


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all({"step", "loss"} <= line.keys() for line in lines)
    return {line["step"]: line["loss"] for line in lines}, [line["step"] for line in lines]


def test_stop_and_resume_repeats_every_bit(make_trainer, tmp_path):
    whole = run(make_trainer(), tmp_path / "whole")
    run(make_trainer(steps=7, **{"optim.schedule": "constant"}), tmp_path / "other")
    short = make_trainer()
    object.__setattr__(short, "steps", 7)  # the same config, cut at step 7, inside the third epoch
    first = run(short, tmp_path / "parts")
    assert first.step == 7
    second = run(make_trainer(), tmp_path / "parts")
    assert second.start == 7 and second.step == 20
    assert digests(second.state) == digests(whole.state)
    values, steps = losses(tmp_path / "parts")
    assert steps == list(range(1, 21)), "every step is logged once"
    assert values == losses(tmp_path / "whole")[0]
    other = losses(tmp_path / "other")[0]
    assert other[7] != values[7], "another schedule must show, or nothing was compared"


@pytest.mark.parametrize("devices, sharding", [(2, "replicated"), (8, "fsdp")])
def test_device_count_and_preset_may_change_on_resume(make_trainer, tmp_path, devices, sharding):
    one = make_trainer(steps=4)
    loop = run(one, tmp_path / "run")
    mesh = {"mesh.data": 1, "mesh.fsdp": -1} if sharding == "fsdp" else {}
    many = make_trainer(devices, steps=4, sharding=sharding, **mesh)
    state = Checkpoints(tmp_path / "run" / "checkpoints").restore(many.abstract.state)
    assert digests(state) == digests(loop.state)
    kernel = flatten(state["params"])["image/blocks/mlp/fc1/kernel"]
    split = kernel.addressable_shards[0].data.size * (devices if sharding == "fsdp" else 1)
    assert split == kernel.size and len(kernel.sharding.device_set) == devices
    assert many.pipeline.keys(4) == one.pipeline.keys(4)
    found = [next_loss(trainer, state) for trainer, state in ((one, loop.state), (many, state))]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def next_batch(trainer, step):
    rows = next(trainer.pipeline.batches(step))
    names = trainer.batch_spec(1)
    return to_device({name: rows[name] for name in names}, batch_sharding(trainer.mesh))


def next_loss(trainer, state):
    with jax.set_mesh(trainer.mesh):
        batch = next_batch(trainer, int(state["step"]))
        return float(trainer.step(state, {}, batch)[1]["loss"])


class Broken:
    """A method whose loss is multiplied by NaN or a spike on chosen steps."""

    def __init__(self, method, factors):
        self._method, self._factors = method, factors

    def __getattr__(self, name):
        return getattr(self._method, name)

    def loss(self, v, x):
        value, aux = self._method.loss(v, x)
        for at, factor in self._factors.items():
            value = value * jnp.where(x.step == at, factor, 1.0)
        return value, aux


def broken(trainer, factors):
    object.__setattr__(trainer, "method", Broken(trainer.method, factors))
    return trainer


def test_a_bad_step_changes_nothing_and_is_counted(make_trainer):
    trainer = broken(make_trainer(), {1: float("nan"), 2: float("inf")})
    state, _ = trainer.first()
    kept = []
    with jax.set_mesh(trainer.mesh):
        for step in range(4):
            state, metrics = trainer.step(state, {}, next_batch(trainer, step))
            counters = ("step", "skipped", "skipped_in_row")
            kept.append(digests({k: v for k, v in state.items() if k not in counters}))
    assert kept[1] == kept[0] and kept[2] == kept[0] and kept[3] != kept[0]
    assert int(state["skipped"]) == 2 and int(state["skipped_in_row"]) == 0
    assert int(state["step"]) == 4 and np.isfinite(metrics["loss"])


def test_bad_steps_in_a_row_stop_the_run(make_trainer, tmp_path):
    factors = {step: float("nan") for step in range(2, 20)}
    trainer = broken(make_trainer(max_bad_steps=3), factors)
    with pytest.raises(RunError, match="step 5: 3 steps in a row"):
        run(trainer, tmp_path / "run")


def test_a_gradient_spike_is_survived_and_the_temperature_stays_in_bounds(make_trainer):
    def train(factors):
        overrides = {"optim.clip_norm": 1.0, "optim.lr": 1e-2, "optim.schedule": "constant"}
        trainer = broken(make_trainer(steps=30, **overrides), factors)
        state, found = trainer.first().state, []
        # one temperature far above the clamp, as after a spike without it
        state["params"]["logit_scale"] = jnp.full_like(state["params"]["logit_scale"], 9.0)
        state = jax.device_put(state, trainer.sharding.state)
        with jax.set_mesh(trainer.mesh):
            for step in range(30):
                state, metrics = trainer.step(state, {}, next_batch(trainer, step))
                assert float(state["params"]["logit_scale"]) <= np.log(100) + 1e-6
                found.append(float(metrics["loss"]))
        return found

    spiked, plain = train({15: 1e4}), train({})
    assert spiked[15] > 100 * plain[15]
    assert min(spiked[16:26]) < 1.5 * max(plain[10:26])


def test_moving_average_and_frozen_leaves(make_trainer):
    trainer = make_trainer(freeze="('image/.*',)", allow_random_frozen=True)
    state, frozen = trainer.first()
    before, ema = digests(frozen), flatten(jax.tree.map(np.asarray, state["ema"]))
    assert set(state["params"]) == {"text", "logit_scale"} and "image" not in state["opt"]
    with jax.set_mesh(trainer.mesh):
        state, _ = trainer.step(state, frozen, next_batch(trainer, 0))
    assert digests(frozen) == before, "and it was not donated"
    rate = min(0.9, 1 / 10)  # step 0 of the warm-up of the average
    for path, leaf in flatten(state["params"]).items():
        mixed = rate * ema[path] + (1 - rate) * np.asarray(leaf)
        np.testing.assert_allclose(flatten(state["ema"])[path], mixed, rtol=1e-5, atol=1e-7)


def test_losses_are_the_same_under_every_sharding(make_trainer):
    found = []
    for devices, sharding, mesh in (  # the others: as a resume goes on under them, above
        (1, "replicated", {}),
        (8, "fsdp_tensor", {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}),
    ):
        trainer = make_trainer(devices, sharding=sharding, **mesh)
        found.append(next_loss(trainer, trainer.first().state))
    assert found == pytest.approx([found[0]] * 2, rel=1e-6)
    qkv = trainer.sharding.state["params"]["text"]["blocks"]["attn"]["qkv"]["kernel"]
    assert qkv.spec[2] == "tensor", "heads lie on the tensor axis"


def test_dataclass_methods_are_frozen(make_trainer):
    method = make_trainer().method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.embed_dim = 3

"""The loop's contract: its order, what it logs and when, its guards, and exact resumes."""

import json
import sys

import jax.numpy as jnp
import pytest
from small_runs import digests

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.parallel.watchdog import Watchdog
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.loop import Loop
from vlp_jax.train.metrics import JsonlWriter, logged, open_writers
from vlp_jax.train.preemption import Preempted, StopSignal


def loop_of(trainer, workdir):
    """A Loop from the newest checkpoint of the workdir."""
    workdir.mkdir(exist_ok=True)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=20)
    restored = bool(checkpoints.steps())
    start = (checkpoints.restore(trainer.abstract.state), {}) if restored else trainer.first()
    return Loop(trainer, workdir, start, checkpoints)


def run(trainer, workdir, until=0):
    """Trains to the end, or to step `until` of a run whose schedule is longer."""
    object.__setattr__(trainer, "steps", until or trainer.config.steps)
    loop = loop_of(trainer, workdir)
    loop.run()
    return loop


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines(workdir)]


@pytest.mark.parametrize(
    "cut, overrides",
    [(5, {}), (6, {"accumulate": 2, "data.word_dropout": 0.3, "optim.name": "lion"})],
    ids=["at the border of two epochs", "with micro-batches, word dropout and another optimiser"],
)
def test_resumes_are_bitwise(make_trainer, tmp_path, cut, overrides):
    trainer = make_trainer(steps=10, **overrides)
    whole = run(trainer, tmp_path / "whole")
    assert trainer.pipeline.steps_per_epoch == 2.5
    run(trainer, tmp_path / "parts", until=cut)
    parts = run(trainer, tmp_path / "parts")
    assert parts.start == cut and digests(parts.state) == digests(whole.state)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_the_order_is_evaluate_checkpoint_train(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(steps=4, eval_every=2, checkpoint_every=2)
    loop, seen = loop_of(trainer, tmp_path), []
    train = loop._train_step
    monkeypatch.setattr(loop, "_evaluate", lambda: seen.append(f"evaluate {loop.step}"))
    monkeypatch.setattr(loop.checkpoints, "save", lambda step, *_: seen.append(f"save {step}"))
    monkeypatch.setattr(
        loop, "_train_step", lambda *words: (train(*words), seen.append(f"train {loop.step}"))
    )
    write = loop.writers.write
    monkeypatch.setattr(
        loop.writers, "write", lambda step, v: (write(step, v), seen.append(f"log {step}"))
    )
    loop.run()
    assert seen == [
        "train 1",
        *("log 1", "train 2"),
        *("evaluate 2", "log 2", "save 2"),
        "train 3",
        *("log 3", "train 4"),
        *("log 4", "save 4", "evaluate 4"),  # a failing evaluation costs no training
    ]


def test_lines_are_logged_when_due_with_everything_in_them(make_trainer, tmp_path):
    run(make_trainer(steps=8, log_every=3), tmp_path)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [1, 3, 6, 8], "the first and the last always"
    names = {"loss", "lr", "grad_norm", "skipped", "skipped_in_row", "logit_scale", "epoch"}
    names |= {"examples_per_s", "step_seconds", "data_wait", "dropped", "time"}
    assert all(names <= line.keys() for line in found)
    assert [line["epoch"] for line in found] == [0.4, 1.2, 2.4, 3.2]
    assert found[0]["lr"] == pytest.approx(1e-3) and found[-1]["lr"] < found[0]["lr"]


def test_nothing_is_sent_to_the_device_behind_the_steps_back(make_trainer, tmp_path):
    trainer = make_trainer(steps=2)
    step, host = trainer.step, jnp.zeros(()).__array__()

    def careless(*given):
        state, metrics = step(*given)
        return state, {**metrics, "loss": metrics["loss"] + host}

    trainer.__dict__["step"] = careless
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(trainer, tmp_path)


def test_bad_steps_between_logged_lines_stop_the_run(make_trainer, tmp_path):
    trainer = make_trainer(steps=20, log_every=1000, max_bad_steps=3)
    step = trainer.step
    in_row = [jnp.int32(max(0, number - 4)) for number in range(1, 21)]  # bad from step 5 on

    def broken(*given):
        state, metrics = step(*given)
        return state, {**metrics, "skipped_in_row": in_row.pop(0)}

    trainer.__dict__["step"] = broken
    loop = loop_of(trainer, tmp_path)
    with pytest.raises(RunError, match="step 9: 5 steps in a row"):
        loop.run()
    assert loop.step == 10, "noticed one step late, long before the next logged line"


def test_checkpoints_by_minutes(make_trainer, tmp_path):
    run(make_trainer(steps=3, checkpoint_every=0, checkpoint_minutes=1e-9), tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [0, 1, 2, 3]


def test_a_finished_run_trains_and_logs_nothing_more(make_trainer, tmp_path):
    trainer = make_trainer(steps=3)
    first = run(trainer, tmp_path)
    before = lines(tmp_path)
    again = run(trainer, tmp_path)
    assert again.start == 3 and digests(again.state) == digests(first.state)
    assert lines(tmp_path) == before


def test_an_evaluation_that_a_stop_cut_off_is_made_up_for_once(make_trainer, tmp_path):
    pictures = make_trainer().config.data.path
    overrides = {"eval_every": 2, "evals.retrieval.path": pictures, "eval_batch_size": 16}
    trainer = make_trainer(steps=5, **overrides)
    loop = loop_of(trainer, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignal, "requested", lambda _, step: step == 2)
        with pytest.raises(Preempted):
            loop.run()
    loop = loop_of(trainer, tmp_path)
    with pytest.MonkeyPatch.context() as patch:  # a signal while the last evaluation runs
        patch.setattr(StopSignal, "heard", property(lambda _: loop.step == 5))
        with pytest.raises(Preempted, match="stopped at step 5 of 5, state saved"):
            loop.run()
    for _ in range(2):  # the second resume finds everything done
        run(trainer, tmp_path)
        found = lines(tmp_path)
        measured = [x["step"] for x in found if "eval/retrieval/i2t_r1" in x]
        trained = {x["step"]: x["loss"] for x in found if "lr" in x}
        assert measured == [2, 4, 5] and list(trained) == [1, 2, 3, 4, 5]
        assert all(x["loss"] == trained[x["step"]] for x in found)


def test_what_json_cannot_say_is_null(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl", 0)
    writer.write(1, {"loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    (line,) = [json.loads(text, parse_constant=lambda word: pytest.fail(word))]
    assert (line["loss"], line["grad_norm"], line["lr"]) == (None, None, 0.5)
    assert logged(tmp_path / "metrics.jsonl", 1) == line


def test_a_log_is_cut_at_the_step_that_the_run_goes_on_from(tmp_path):
    file = tmp_path / "metrics.jsonl"
    whole = [json.dumps({"step": step, "loss": 1.0}) for step in range(1, 6)]
    file.write_text("\n".join([*whole, '{"step": 6, "lo']))
    writer = JsonlWriter(file, 3)
    writer.write(4, {"loss": 2.0})
    writer.close()
    assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_line_without_its_end_is_whole_or_cut(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 1.0}\n3\n{"step": 2, "loss": 1.0}')
    writer = JsonlWriter(file, 5)
    writer.write(3, {"loss": 2.0})
    writer.close()
    assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == [(1, 1), (2, 1), (3, 2)]


class Wandb:
    """Stands in for the package; keeps what it is told."""

    def __init__(self):
        self.told = []

    def init(self, **words):
        self.told.append(("init", words))
        return self

    def __getattr__(self, name):
        return lambda *words, **named: self.told.append((name, words, named))


def test_a_run_has_one_name_at_wandb_and_its_own_steps(tmp_path, monkeypatch):
    wandb, names = Wandb(), []
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for folder in ("a/w", "a/w", "b/w"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        writers = open_writers(tmp_path / folder, 0, {"wandb": "project", "seed": 1})
        writers.write(7, {"loss": 0.5, "bad": float("nan"), "none": float("inf")})
        writers.close()
        init, *others = wandb.told
        assert init[1]["project"] == "project" and init[1]["resume"] == "allow"
        assert init[1]["name"] == "w" and init[1]["config"] == {"wandb": "project", "seed": 1}
        assert others == [
            ("define_metric", ("*",), {"step_metric": "step"}),
            ("log", ({"step": 7, "loss": 0.5},), {}),
            ("finish", (), {}),
        ]
        names.append(init[1]["id"])
        wandb.told.clear()
    assert names[0] == names[1] != names[2] and len(names[0]) == 16
    assert (tmp_path / "a/w/wandb_id").read_text() == names[0] + "\n"


def test_an_evaluation_that_fails_costs_no_training(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(steps=2, checkpoint_every=0)
    loop = loop_of(trainer, tmp_path)

    def fail():
        raise UserError("no such class")

    monkeypatch.setattr(loop, "_evaluate", fail)
    with pytest.raises(UserError):
        loop.run()
    assert Checkpoints(tmp_path / "checkpoints").steps()[-1] == 2


def test_the_watchdog_hands_options_of_a_function_on():
    seen = Watchdog(0).marking(lambda batch, how=None: (batch, how))
    assert seen(1, how={"beams": 2}) == (1, {"beams": 2})

"""A run that goes back: what it gives up, when, and what a kill at any moment leaves."""

import json
import struct

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from vlp_jax.__main__ import main
from vlp_jax.train import going_back
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.going_back import RECORD, finish, give_up
from vlp_jax.train.loop import Loop
from vlp_jax.train.metrics import read_lines


def steps(workdir):
    return Checkpoints(workdir / "checkpoints").steps()


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_lines(workdir / "metrics.jsonl")}


def content(folder):
    """{file: bytes} of what a run is made of."""
    files = [folder / "metrics.jsonl", *(folder / "checkpoints").rglob("*")]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def test_what_lies_after_goes_at_the_first_save_and_not_before(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(steps=8, checkpoint_every=2)

    def train(until, start=None, keep=9):
        object.__setattr__(trainer, "steps", until)
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep)
        begun = trainer.first()
        if checkpoints.steps():
            begun = checkpoints.restore(trainer.abstract.state, start), {}
        loop = Loop(trainer, tmp_path, begun, checkpoints)
        loop.run()
        return loop

    train(6)
    assert steps(tmp_path) == [2, 4, 6]
    first, before = losses(tmp_path), content(tmp_path)
    monkeypatch.setitem(trainer.__dict__, "pipeline", Shifted(trainer.pipeline))
    train_step = Loop._train_step

    def broken(loop, *arguments):
        if loop.step == 3:
            raise OSError("the power is gone")
        return train_step(loop, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train_step", broken)
        with pytest.raises(OSError):
            train(8, start=2)
    assert content(tmp_path) == before, "a run without a save has changed nothing"
    assert train(4, start=2, keep=1).later == []
    assert steps(tmp_path) == [4], "4 is its own, 6 is gone and counted for nothing"
    second = losses(tmp_path)
    assert list(second) == [1, 2, 3, 4]
    assert [second[s] == first[s] for s in second] == [True, True, False, False]
    events = [
        event for file in sorted((tmp_path / "tensorboard").iterdir()) for event in read(file)
    ]
    starts = [event.step for event in events if event.HasField("session_log")]
    assert starts == [1, 3], "the lost steps go from the curves; the broken run wrote none"
    drawn = [event.step for event in events if event.summary.value]
    assert list(dict.fromkeys(drawn)) == [1, 2, 3, 4, 5, 6] and drawn[-1] == 4


class Shifted:
    """Training data ten steps further on, so that another run shows."""

    def __init__(self, pipeline):
        self._pipeline = pipeline

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def batches(self, step):
        return self._pipeline.batches(step + 10)


def read(file):
    """The events of a TensorBoard file (records of TFRecord)."""
    data, found = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_the_next_start_stays_where_the_run_went_back_to(
    config_file, tmp_path, capsys, caplog, monkeypatch
):
    keys = ("checkpoint_every=2", "optim.schedule=constant")
    words = ["train", f"--config={config_file}", f"--workdir={tmp_path}"]
    words += [f"--config.{key}" for key in keys]
    assert main([*words, "--config.steps=5"]) == 0
    assert steps(tmp_path) == [2, 4, 5]
    before = [(tmp_path / name).read_bytes() for name in ("config.json", "run.json")]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", lambda _: 1 / 0)
        back = ["--config.steps=2", "--config.batch_size=8", "--force", "--step=2"]
        assert main([*words, *back]) == 1
    assert [(tmp_path / name).read_bytes() for name in ("config.json", "run.json")] == before
    assert main([*words, "--config.steps=2", "--force", "--step=2"]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 2
    assert "gives up steps 4, 5 and all logged after 2; until then" in caplog.text
    assert "a start without --step goes on from step 5" in caplog.text
    assert steps(tmp_path) == [2] and list(losses(tmp_path)) == [1, 2]
    (tmp_path / RECORD).write_text(
        '{"start": 1, "later": [], "files": {}, "lines": [{"step": 2, "loss": 7}]}'
    )
    capsys.readouterr()
    assert main([*words, "--config.steps=2"]) == 0
    assert "steps 2 -> 2" in capsys.readouterr().err
    assert losses(tmp_path)[2] == 7, "a record is carried out by the next start"
    assert not (tmp_path / RECORD).exists()


@pytest.fixture
def gone_back(tmp_path):
    """A workdir at the moment when the first save (step 3) after going back to 1 is complete."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=9)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {"step": jnp.int32(step)})
    checkpoints.wait()
    lines = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3, 4))
    (tmp_path / "metrics.jsonl").write_text(lines)
    lines = [(2, {"loss": 2.0, "time": 5}), (3, {"loss": None})]
    return tmp_path, checkpoints, (1, [2, 4], lines, {"run.json": {"new": 1}})


def killed(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["cut_log", "remove", "second", "unlink"])
def test_what_a_kill_cuts_off_is_finished_by_the_next_start(gone_back, monkeypatch, moment):
    folder, checkpoints, what = gone_back
    with monkeypatch.context() as patch:
        if moment == "cut_log":
            patch.setattr(going_back, "cut_log", killed)
        elif moment == "remove":
            patch.setattr(checkpoints, "remove", killed)
        elif moment == "second":
            patch.setattr(checkpoints, "remove", lambda _: killed(Checkpoints.remove(*half)))
            half = (checkpoints, [4])
        else:
            patch.setattr(type(folder), "unlink", killed)
            patch.setattr(checkpoints, "remove", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            give_up(folder, checkpoints, *what)
    assert (folder / RECORD).is_file()
    finish(folder, Checkpoints(folder / "checkpoints"))
    assert steps(folder) == [1, 3]
    assert losses(folder) == {1: 1.0, 2: 2.0, 3: None}
    assert json.loads((folder / "run.json").read_text()) == {"new": 1}
    names = {path.name for path in folder.iterdir()}
    assert names == {"checkpoints", "metrics.jsonl", "run.json"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"1", "3", "digests"}
    digests = {path.name for path in (folder / "checkpoints" / "digests").iterdir()}
    assert digests == {"1.json", "3.json"}


def test_a_kill_before_the_record_leaves_all(gone_back, monkeypatch):
    folder, checkpoints, what = gone_back
    before = content(folder)
    monkeypatch.setattr(going_back, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        give_up(folder, checkpoints, *what)
    finish(folder, checkpoints)
    assert content(folder) == before

"""R1: a run killed at every moment of a save goes on bit for bit, and nothing torn is listed."""

import json
import signal

import jax
import pytest
from faulty import run_command, run_faulty
from runs import digests

from vlp_jax.train.checkpoint import Checkpoints

# Fault -> complete steps that must be left, with checkpoints after every step and two kept.
FAULTS = {
    "flight:3": ([1, 2], [2, 3]),  # the copy of step 3 may or may not have come through
    "committed:4": ([2, 3],),
    "digest:5": ([3, 4],),
    "logged:6": ([5, 6],),
    "prune:6": ([7, 8],),
}


@pytest.fixture(scope="module")
def words(config_file):
    keys = ("checkpoint_every=1", "keep_checkpoints=2", "steps=10", "optim.schedule=constant")
    return ["train", f"--config={config_file}", *(f"--config.{key}" for key in keys)]


def model(workdir):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, state = Checkpoints(workdir / "checkpoints").restore_model(device)
    assert step == 10
    return digests(state)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_killed_at_every_moment_of_a_save(words, tmp_path):
    assert run_command(*words, f"--workdir={tmp_path / 'whole'}")[0] == 0
    workdir = tmp_path / "killed"
    for fault, left in FAULTS.items():
        code, _, error = run_faulty(fault, *words, f"--workdir={workdir}")
        assert code == -signal.SIGKILL, f"{fault}: {error}"
        steps = Checkpoints(workdir / "checkpoints").steps()
        assert steps in left, fault
        logged = [line["step"] for line in lines(workdir)]
        assert logged == list(range(1, len(logged) + 1)) and len(logged) >= steps[-1], fault
    assert run_command(*words, f"--workdir={workdir}")[0] == 0
    assert model(workdir) == model(tmp_path / "whole")
    assert [(x["step"], x["loss"]) for x in lines(workdir)] == [
        (x["step"], x["loss"]) for x in lines(tmp_path / "whole")
    ]
    names = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert names == ["10", "9", "digests"], "what the torn saves left is gone"
    assert len(list((workdir / "checkpoints" / "digests").iterdir())) == 2

"""R3: a signal saves and leaves with code 75; two processes train like one (how they stop:
test_fault_processes.py).
"""

import json
import signal
import socket
import time

import pytest
from runs import finish, start

from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.preemption import EXIT_PREEMPTED


def wait_for_steps(workdir, count, timeout=90):
    deadline = time.monotonic() + timeout
    file = workdir / "metrics.jsonl"
    while time.monotonic() < deadline:
        if file.exists() and file.read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the run never started")


def test_sigterm_saves_and_the_same_command_goes_on(config_file, tmp_path):
    workdir = tmp_path / "w"
    words = ["train", f"--config={config_file}", f"--workdir={workdir}", "--config.steps=2000"]
    child = start(*words)
    wait_for_steps(workdir, 3)
    child.send_signal(signal.SIGTERM)
    code, _, error = finish(child)
    assert code == EXIT_PREEMPTED, error
    (*_, stopped) = Checkpoints(workdir / "checkpoints").steps()
    assert f"stopped at step {stopped} of 2000" in error and "run the same command" in error
    child = start(*words)
    wait_for_steps(workdir, stopped + 1)
    child.send_signal(signal.SIGTERM)
    assert finish(child)[0] == EXIT_PREEMPTED
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > stopped


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pair(words):
    """Two processes of one job on this host; gloo carries their collectives."""
    job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    return [start(*words, **job, JAX_PROCESS_ID=str(rank)) for rank in range(2)]


def test_two_processes_train_like_one(config_file, tmp_path):
    common = ["train", f"--config={config_file}"]
    one = start(*common, f"--workdir={tmp_path / 'one'}")
    assert finish(one)[0] == 0
    words = [*common, f"--workdir={tmp_path / 'two'}"]
    for child in pair(words):
        code, _, error = finish(child)
        assert code == 0, error
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}

"""R3: a signal saves and leaves with code 75 (of several processes: test_fault_processes.py)."""

import json
import signal

from forks import Child, wait_for_steps

from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.preemption import EXIT_PREEMPTED, StopSignal


def test_sigterm_saves_and_the_same_command_goes_on(config_file, tmp_path):
    workdir = tmp_path / "w"
    words = ["train", f"--config={config_file}", f"--workdir={workdir}", "--config.steps=2000"]
    child = Child(words, tmp_path / "log")
    wait_for_steps(workdir, 3)
    child.send(signal.SIGTERM)
    code, error = child.end()
    assert code == EXIT_PREEMPTED, error
    (*_, stopped) = Checkpoints(workdir / "checkpoints").steps()
    assert f"stopped at step {stopped} of 2000" in error and "run the same command" in error
    child = Child(words, tmp_path / "log")
    wait_for_steps(workdir, stopped + 1)
    child.send(signal.SIGTERM)
    assert child.end()[0] == EXIT_PREEMPTED
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > stopped


def test_what_a_run_heard_too_late_reaches_the_study_around_it():
    with StopSignal() as outer:
        with StopSignal() as inner:
            assert not inner.heard
            signal.raise_signal(signal.SIGTERM)
        assert inner.heard and outer.heard
        with StopSignal() as later:
            assert later.requested(1)  # the next run stops at once
    with StopSignal() as apart:
        assert not apart.heard

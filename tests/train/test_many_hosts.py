"""R9, R10, R11, R22 with real processes: whoever dies, hangs, fails or differs is named by all."""

import os
import pathlib
import signal

import pytest
from forks import Child, children_of, ends, job, wait_for_steps

from vlp_jax.parallel.pulse import EXIT_LOST
from vlp_jax.train.checkpoint import Checkpoints


@pytest.fixture
def words(config_file):
    keys = ("steps=100000", "batch_size=12", "checkpoint_every=3", "heartbeat_seconds=20")
    return ["train", f"--config={config_file}", *(f"--config.{key}" for key in keys)]


def test_a_dead_process_is_named_and_the_job_goes_on_after_it(words, tmp_path):
    workdir, seen = tmp_path / "w", 0
    for victim in (2, 0):  # a worker, then the coordinator
        children = job(3, [*words, f"--workdir={workdir}"], tmp_path)
        wait_for_steps(workdir, seen + 8)
        children[victim].send(signal.SIGKILL)
        codes, texts = ends(children, timeout=30)
        for rank in {0, 1, 2} - {victim}:
            assert f"error: rank {victim} died" in texts[rank], texts[rank]
            assert codes[rank] == EXIT_LOST
        assert codes[victim] == -signal.SIGKILL
        steps = Checkpoints(workdir / "checkpoints").steps()
        assert steps[-1] > seen, "each run went on from the one before"
        seen = steps[-1]


def test_a_stopped_process_is_named_with_stacks(words, tmp_path):
    command = [*words, "--config.hang_seconds=8", f"--workdir={tmp_path / 'w'}"]
    children = job(2, command, tmp_path)
    wait_for_steps(tmp_path / "w", 3)
    children[1].send(signal.SIGSTOP)
    try:
        code, text = children[0].end()
    finally:
        children[1].send(signal.SIGKILL)
    children[1].end()
    assert code == EXIT_LOST and "error: rank 1 has been silent" in text, text
    assert "warning: rank 0: no step for" in text
    assert "train/loop.py" in text and "in _watch" in text, "stacks of all threads"


def test_a_slow_loader_is_named_on_every_rank(words, tmp_path):
    command = [*words, "--config.hang_seconds=8", f"--workdir={tmp_path / 'w'}"]
    codes, texts = ends(job(2, command, tmp_path, faults={1: "sleep:4"}))
    assert codes == [EXIT_LOST] * 2
    for text in texts:
        assert "error: rank 1 hangs in 'data' of step 4" in text, text
    assert "in nap" in texts[1] and "warning: rank 1: no step for" in texts[1]


def test_processes_that_differ_are_refused_before_compiling(words, tmp_path):
    command = [*words, f"--workdir={tmp_path / 'w'}"]
    own = {1: ["--config.seed=4"], 2: ["--config.optim.lr=2e-3"]}
    codes, texts = ends(job(3, command, tmp_path, own=own))
    assert codes == [2, 2, 2]
    for text in texts:
        (line,) = [line for line in text.splitlines() if line.startswith("error")]
        assert "seed=0 (ranks 0, 2) but seed=4 (rank 1)" in line
        assert "optim.lr=0.001 (ranks 0, 1) but optim.lr=0.002 (rank 2)" in line
        assert "parameters" not in text
    assert not (tmp_path / "w").exists()


def test_a_killed_loader_process_is_named(config_file, tmp_path):
    words = [f"--config={config_file}", "--config.steps=100000", "--config.data.workers=2"]
    child = Child(["train", *words, f"--workdir={tmp_path / 'w'}"], tmp_path / "log")
    wait_for_steps(tmp_path / "w", 3)
    names = {
        pid: pathlib.Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(child.pid)
    }
    (*_, worker) = [pid for pid, name in names.items() if "spawn_main" in name]
    os.kill(worker, signal.SIGKILL)
    code, text = child.end(timeout=30)
    assert code == 1 and "error: a data loader process (one of data.workers=2) died" in text, text

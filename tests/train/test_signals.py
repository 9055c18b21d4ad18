"""R3: a signal saves and leaves with code 75 (of several processes: test_fault_processes.py)."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from forks import Child, wait_for_steps

from vlp_jax.core.ending import ended
from vlp_jax.core.errors import UserError
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.preemption import EXIT_PREEMPTED, Preempted, StopSignal


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


def test_processes_of_a_job_stop_before_the_same_part(monkeypatch):
    """Between batches nobody asks the others, who may be elsewhere."""
    from vlp_jax.api.stop import stoppable
    from vlp_jax.train import preemption

    asked = []
    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        preemption.multihost_utils,
        "reached_preemption_sync_point",
        lambda step: asked.append(step) or step == 3,
    )
    with stoppable("parts are kept") as check:
        for _ in range(2):
            check.part()
            check()
        with pytest.raises(Preempted, match="stopped, parts are kept; run the same command again"):
            check.part()
    assert asked == [1, 2, 3]


PROGRAM = """
import gc, multiprocessing, signal, sys, time
from vlp_jax.core.ending import program

def main(words):
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(40,))
    child.start()
    print(child.pid, end="")
    gc.callbacks.append(lambda *_: signal.raise_signal(int(words[0])))
    gc.collect()  # a callback loses what is raised in it, as jax's does
    return 0

if __name__ == "__main__":
    signal.signal(int(sys.argv[1]), signal.SIG_DFL)  # shells start background jobs deaf to SIGINT
    program(main, sys.argv[1:])
"""


@pytest.mark.parametrize("number, code, said", [(15, 75, "stopped\n"), (2, 130, "interrupted\n")])
def test_a_program_ends_wherever_a_signal_finds_it(tmp_path, number, code, said):
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [sys.executable, str(tmp_path / "program.py"), str(number)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, said)
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(int(done.stdout), 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    "line, code, said",
    [
        ("signal.raise_signal(signal.SIGTERM)", 75, "stopped\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise Preempted", 75, "saved\n"),
        ("raise UserError", 2, "error: saved\n"),
    ],
)
def test_a_program_ends_in_a_line(monkeypatch, capsys, line, code, said):
    kinds = {"Preempted": Preempted, "UserError": UserError}

    def main(words):
        if line.startswith("signal"):
            signal.raise_signal(signal.SIGTERM)
        raise kinds[line.split()[1]]("saved") if line.split()[1] in kinds else KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        found = ended(main, [])
    except SystemExit as error:
        found = error.code
    finally:
        signal.signal(signal.SIGTERM, old)
    assert found == code and capsys.readouterr().err == said

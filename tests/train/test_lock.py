"""One training a workdir: who is refused, who is not, and what a killed run leaves."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import ROOT, environment

from vlp_jax.core.errors import UserError
from vlp_jax.train import lock
from vlp_jax.train.lock import locked

HOLD = """
import pathlib, sys, time
from vlp_jax.train.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path / "w"."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "w")]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


def no_flock(monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


def left_behind(folder, **changes):
    """The lock of a run that is gone."""
    folder.mkdir()
    record = {**lock._me(), "pid": 4_000_000, "started": "17", **changes}
    (folder / "lock").write_text(json.dumps(record))
    return folder


def refusal(folder):
    with pytest.raises(UserError) as caught, locked(folder):
        pytest.fail("taken twice")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_held_folder_names_its_holder_and_is_left_as_it_is(holder, tmp_path):
    before = (tmp_path / "w" / "lock").read_text()
    text = refusal(tmp_path / "w")
    assert f"--workdir={tmp_path / 'w'}: a training holds it ({socket.gethostname()}, " in text
    assert f"pid {holder.pid}, since 20" in text
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["lock"]
    assert (tmp_path / "w" / "lock").read_text() == before
    record = json.loads(before)
    assert record["pid"] == holder.pid and record["started"] == lock._started(holder.pid)


def test_the_kernels_lock_holds_without_a_record_too(holder, tmp_path):
    (tmp_path / "w" / "lock").write_text("")  # as between the holder's lock and its record
    assert "a training holds it (another process); wait" in refusal(tmp_path / "w")


def test_the_next_start_after_a_kill_takes_it_at_once(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("nothing to wait for"))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "w" / "lock").exists()
    with locked(tmp_path / "w"):
        assert json.loads((tmp_path / "w" / "lock").read_text())["pid"] == os.getpid()
        refusal(tmp_path / "w")  # this process too holds it once
    assert list((tmp_path / "w").iterdir()) == []


def test_without_the_kernels_lock_the_process_is_looked_up(holder, tmp_path, monkeypatch):
    no_flock(monkeypatch)
    assert f"pid {holder.pid}" in refusal(tmp_path / "w")
    record = json.loads((tmp_path / "w" / "lock").read_text())
    assert record["machine"] == lock._machine() and record["machine"] != ""
    with locked(left_behind(tmp_path / "dead")):
        pass
    reused = left_behind(tmp_path / "reused", pid=holder.pid, started="17")
    with locked(reused):  # that number is another process's now
        pass


@pytest.mark.parametrize("moves_after", [1, 3, None])
def test_another_machines_run_lives_while_its_files_time_moves(tmp_path, monkeypatch, moves_after):
    folder = left_behind(tmp_path / "w", host="far", machine="other", pid=os.getpid())
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == moves_after:
            os.utime(folder / "lock", ns=(1, 1))

    monkeypatch.setattr(time, "sleep", sleep)
    if moves_after:
        assert f"(far, pid {os.getpid()}, since" in refusal(folder)
        assert slept == [5.0] * moves_after
    else:
        with locked(folder):
            assert json.loads((folder / "lock").read_text())["host"] == socket.gethostname()
        assert slept == [5.0] * 3


def test_a_sign_of_life_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / "lock", ns=(1, 1))
        deadline = time.monotonic() + 30
        while (tmp_path / "lock").stat().st_mtime_ns == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "lock").stat().st_mtime_ns > 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"host": "ha', "null"])
def test_a_record_that_says_nothing_holds_nothing(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_an_error_releases_and_empty_folders_go(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b", "x"]


def test_a_lock_that_is_removed_while_it_is_taken_is_made_again(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def late(handle, how):
        if not removed:
            removed.append((tmp_path / "lock").unlink())
        return flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert (tmp_path / "lock").exists()
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("another's")
    assert (tmp_path / "lock").read_text() == "another's", "what is not ours stays"


def test_odd_folders_are_refused_in_one_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "w"):
        assert refusal(folder) == f"--workdir={folder}: {file} is a file, not a folder"


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may write everywhere
    assert refusal(tmp_path).endswith(": cannot be written (Permission denied)")
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert refusal(tmp_path / "new").endswith(": cannot be written (Permission denied)")

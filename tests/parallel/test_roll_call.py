"""Who of a job is missing is named, by every rank that waits, before JAX would abort."""

import socket
import threading
import time

import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.parallel import hosts, pulse, roll_call
from vlp_jax.parallel.roll_call import RollCall


@pytest.fixture
def coordinator():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """What is told, and the exit codes, in place of the ends of processes."""
    found = []
    monkeypatch.setattr(roll_call, "_say", found.append)
    monkeypatch.setattr(pulse, "quit_now", found.append)
    monkeypatch.setattr(roll_call, "_EVERY", 0.01)
    yield found
    for thread in threading.enumerate():
        if thread.name == "roll call":
            thread.join(10)
            assert not thread.is_alive()


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_rank_that_waits_names_those_that_lack(coordinator, said):
    place = f"of 4 waits for ranks 2, 3 at {coordinator}"
    with RollCall(coordinator, 0, 4, 300) as first, RollCall(coordinator, 1, 4, 300) as second:
        until(lambda: first.heard == {0, 1} and second.missing == [2, 3])
        assert first.line() == f"rank 0 {place}" and second.line() == f"rank 1 {place}"
        with RollCall(coordinator, 3, 4, 300) as third:
            until(lambda: second.missing == [2] == third.missing)
            assert third.line() == f"rank 3 of 4 waits for rank 2 at {coordinator}"
    assert said == [], "nobody has waited for five seconds"


def test_it_is_told_once_and_the_end_comes_before_jaxs(coordinator, said, monkeypatch):
    monkeypatch.setattr(roll_call, "SILENCE", 0.0)
    with RollCall(coordinator, 1, 2, 300):
        until(lambda: said)
        time.sleep(0.1)
    text = f"rank 1 of 2 waits for rank 0 at {coordinator}"
    assert said == [f"{text}, at most 300 s; do all of them run?"], "once; 0 has never answered"
    said.clear()
    with RollCall(coordinator, 0, 2, roll_call._MARGIN):
        until(lambda: pulse.EXIT_LOST in said)
    text = f"error: rank 0 of 2 waits for rank 1 at {coordinator}; they never came, the job ends"
    assert said[1:3] == [text, pulse.EXIT_LOST]


def test_all_present_and_jax_not_yet_done(coordinator):
    with RollCall(coordinator, 0, 2, 300) as first, RollCall(coordinator, 1, 2, 300):
        until(lambda: first.heard == {0, 1})
        assert first.line() == f"rank 0 of 2 waits for the others at {coordinator}"


@pytest.mark.parametrize("data", [b"\xff", b"{}", b"[]", b'{"rank": "x"}', b'{"rank": 4}', b"7"])
def test_strangers_change_nothing(coordinator, data):
    host, _, port = coordinator.rpartition(":")
    with RollCall(coordinator, 0, 4, 300) as first, RollCall(coordinator, 2, 4, 300):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            until(lambda: first.heard == {0, 2})
            stranger.sendto(data, (host, int(port)))
        time.sleep(0.05)
        assert first.heard == {0, 2} and first._thread.is_alive()


def test_a_job_that_waits_calls_the_roll(coordinator, said, monkeypatch):
    """`join` itself, with JAX in the place of a service that waits for ever."""
    import jax

    def wait(**words):
        assert words["initialization_timeout"] == 300
        until(lambda: said)
        raise ValueError("given up")

    monkeypatch.setattr(roll_call, "SILENCE", 0.0)
    monkeypatch.setattr(jax.distributed, "initialize", wait)
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    with pytest.raises(ValueError, match="given up"):
        hosts.join(environment=dict(zip(names, (coordinator, "3", "1"), strict=True)))
    assert said[0].startswith(f"rank 1 of 3 waits for rank 0 at {coordinator}, at most 300 s")
    with pytest.raises(UserError):
        hosts.join(environment={names[0]: coordinator})

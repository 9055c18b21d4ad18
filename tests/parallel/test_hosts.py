"""Where a process finds its job, what a wrong setting costs, and who holds a job up."""

import os
import socket
import threading
import time

import jax
import pytest

from vlp_jax.__main__ import main
from vlp_jax.cli.output import take_host_flags
from vlp_jax.core.errors import UserError
from vlp_jax.parallel import hosts, pulse

WHOLE = {
    "JAX_COORDINATOR_ADDRESS": "host0:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
STEP = {"JOB_ID": "7", "STEP_NODELIST": "n[1-4]", "NTASKS": "4", "PROCID": "2", "LOCALID": "0"}
SLURM = {f"SLURM_{name}": value for name, value in STEP.items()}


def test_flags_and_variables_say_the_same(monkeypatch):
    assert hosts.explicit_job(WHOLE) == hosts.Job("host0:1234", 4, 3)
    assert hosts.explicit_job({}) is None
    for name in WHOLE:
        monkeypatch.setenv(name, "overwritten")
    words = ["IN", "--coordinator=host0:1234", "--num-processes", "4", "--process-id=3", "--json"]
    assert take_host_flags(words) == ["IN", "--json"]
    assert hosts.explicit_job(os.environ) == hosts.Job("host0:1234", 4, 3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"JAX_PROCESS_ID": ""}, "--process-id (or JAX_PROCESS_ID): missing"),
        ({"JAX_PROCESS_ID": "4"}, "--process-id=4: must be from 0 to --num-processes - 1 = 3"),
        ({"JAX_NUM_PROCESSES": "four"}, "--num-processes=four: must be a whole number"),
        ({"JAX_COORDINATOR_ADDRESS": "host0"}, "--coordinator=host0: must be HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "host0:99999"}, "--coordinator=host0:99999: must be"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(change, message):
    with pytest.raises(UserError) as caught:
        hosts.join(environment={**WHOLE, **change})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_flag_ends_any_command_with_code_2(capsys, monkeypatch):
    for name in WHOLE:
        monkeypatch.setenv(name, "")
    assert main(["data", "stats", "nowhere", "--process-id=1"]) == 2
    assert "--coordinator (or JAX_COORDINATOR_ADDRESS)" in capsys.readouterr().err


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("platforms, there", [("", False), ("tpu,cpu", False), ("", True)])
def test_libtpu_is_told_a_slice_only_where_there_is_no_tpu(
    installed, platforms, there, monkeypatch
):
    monkeypatch.setattr(hosts, "sees_tpus", lambda: there)
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: installed or None)
    environment = {"JAX_PLATFORMS": platforms, "TPU_ACCELERATOR_TYPE": "v4-8"}
    hosts.quiet_libtpu(environment)
    told = installed and not platforms and not there
    assert environment.get("TPU_WORKER_HOSTNAMES") == ("localhost" if told else None)
    assert environment["TPU_ACCELERATOR_TYPE"] == "v4-8"


def test_slurm_steps_of_several_tasks_are_joined_and_shells_are_not():
    assert hosts.managed_by(SLURM) == "slurm"
    assert hosts.process_id(SLURM) == 2
    assert hosts.managed_by({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) == "", "srun --pty bash"
    assert hosts.managed_by({name: SLURM[name] for name in ("SLURM_NTASKS", "SLURM_PROCID")}) == ""


def test_a_laptop_joins_nothing_and_asks_nobody(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a job of one needs no coordinator")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    hosts.join(environment={})
    hosts.join(environment={**WHOLE, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"})
    with pytest.raises(Exception, match="needs no coordinator"):
        hosts.join(environment=SLURM)
    assert hosts.gather("a") == ["a"]


def test_differences_name_the_item_and_the_ranks():
    facts = [{"lr": 1, "a": 2}, {"lr": 3, "a": 2}, {"lr": 1, "a": 2, "new": 0}]
    assert hosts.differences(facts) == [
        "lr=1 (ranks 0, 2) but lr=3 (rank 1)",
        "new=absent (ranks 0, 1) but new=0 (rank 2)",
    ]


class Silent:
    """A link as the hub sees it."""

    def __init__(self, rank, place, heard=1e12):
        self.rank, self.place, self.heard, self.bye = rank, place, heard, False


def test_the_slowest_is_silent_or_furthest_behind():
    hub = pulse.Hub(4, seconds=10)
    hub.place = (5, "step")
    hub._links = {1: Silent(1, (5, "step")), 2: Silent(2, (5, "data")), 3: Silent(3, (5, "step"))}
    assert hub.slowest() == (2, "hangs in 'data' of step 5")
    hub._links[3].heard = 0.0
    assert hub.slowest()[0] == 3, "silence tells more than a place"
    hub._links[3].bye = True
    hub._links[2].place = (5, "compile")
    assert hub.slowest() is None, "compiling may take its time"
    hub._links[2].place = (5, "step")
    assert hub.slowest()[1] == "hangs in 'step' of step 5, as do others"


@pytest.fixture
def ended(monkeypatch):
    """Verdicts in place of the ends of processes; no pulse outlives its test."""
    found = []
    monkeypatch.setattr(pulse, "say", lambda rank, why: found.append((rank, why)))
    monkeypatch.setattr(pulse, "quit_now", lambda code: found.append(code))
    monkeypatch.setattr(pulse, "_LINGER", 0.1)
    yield found
    settle()


def settle():
    """Waits until every pulse of this test has ended, and with it spoken."""
    for thread in threading.enumerate():
        if thread.name == "pulse":
            thread.join(10)
            assert not thread.is_alive(), "it would speak in the next test"


def connect(hub, rank):
    spoke = pulse.Spoke(("127.0.0.1", hub.port), hub.token, rank, hub.seconds)
    spoke.start()
    return spoke


def test_an_error_reaches_all_with_its_rank_and_code(ended):
    hub = pulse.Hub(3, seconds=5)
    hub.start()
    first, second = connect(hub, 1), connect(hub, 2)
    second.fail("disk full", 1)
    deadline = time.monotonic() + 10
    while ended.count((2, "failed: disk full")) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.leave()
    hub._ended.set()
    settle()
    assert ended.count((2, "failed: disk full")) == 2, "process 0 and rank 1"
    assert set(ended) == {(2, "failed: disk full"), 1}


def test_a_good_bye_is_no_death_and_strangers_are_not_heard(ended):
    hub = pulse.Hub(2, seconds=5)
    hub.start()
    with socket.create_connection(("127.0.0.1", hub.port)) as stranger:
        stranger.sendall(b'{"token": "guess", "rank": 1, "failed": "x", "code": 1}\n')
        assert stranger.recv(1) == b"", "closed without a word"
    spoke = connect(hub, 1)
    while not hub._links:
        time.sleep(0.01)
    spoke.leave()
    spoke._link.sock.shutdown(socket.SHUT_WR)
    hub.leave()
    settle()
    assert ended == []

"""Joins this process to its job, and what the processes of a job agree on.

The settings come from flags (`--coordinator --num-processes --process-id`, which cli/output.py
turns into the JAX_* variables), from those variables, from Slurm or from a TPU pod's metadata, in
this order; the last two are JAX's own detection. The file exists as the one place that calls
`jax.distributed`; jax itself is imported late, for `--help` to stay instant.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.parallel import pulse
from vlp_jax.parallel.roll_call import SILENCE, RollCall, ranks_text

log = logging.getLogger(__name__)
FLAGS = {
    "--coordinator": "JAX_COORDINATOR_ADDRESS",
    "--num-processes": "JAX_NUM_PROCESSES",
    "--process-id": "JAX_PROCESS_ID",
}
# What libtpu asks a TPU's metadata server for, where there is none: any slice that it knows.
ANY_SLICE = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
# All that JAX's own detection of a Slurm step reads.
_SLURM = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
JOIN_SECONDS = 300  # how long a process waits for the others to appear; jax's own default
_MARGIN = 10  # seconds
_calls = itertools.count()


@dataclasses.dataclass(frozen=True)
class Job:
    """Where this process stands: `coordinator` is HOST:PORT of process 0."""

    coordinator: str
    num_processes: int
    process_id: int


def explicit_job(environment: Mapping[str, str]) -> Job | None:
    """The job that flags or JAX_* variables describe; None when none of them is there.

    Raises:
      UserError: some are missing, no number, or out of range.
    """
    found = {flag: environment.get(name, "") for flag, name in FLAGS.items()}
    if not any(found.values()):
        return None
    lacking = [f"{flag} (or {FLAGS[flag]})" for flag, text in found.items() if not text]
    if lacking:
        raise UserError(f"{', '.join(lacking)}: missing; a job of several processes needs all 3")
    for flag in ("--num-processes", "--process-id"):
        if not found[flag].isdecimal():
            raise UserError(f"{flag}={found[flag]}: must be a whole number")
    count, rank = int(found["--num-processes"]), int(found["--process-id"])
    if not 0 <= rank < count:
        raise UserError(f"--process-id={rank}: must be from 0 to --num-processes - 1 = {count - 1}")
    host, _, port = found["--coordinator"].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator={found['--coordinator']}: must be HOST:PORT of process 0")
    return Job(found["--coordinator"], count, rank)


def managed_by(environment: Mapping[str, str]) -> str:
    """'slurm' inside a step of several tasks, 'tpu' on a machine with TPUs, '' elsewhere.

    A shell that `srun --pty` or `sbatch` opened is one process, whatever the allocation's size.
    Nothing is asked over the network.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    if all(f"SLURM_{name}" in environment for name in _SLURM) and tasks not in ("", "0", "1"):
        return "slurm"
    wanted = environment.get("JAX_PLATFORMS", "")
    return "tpu" if sees_tpus() and (not wanted or "tpu" in wanted) else ""


def sees_tpus() -> bool:
    """Whether JAX found TPUs on this machine, and libtpu to run them."""
    from jax._src import cloud_tpu_init  # set on import of jax from the PCI bus, not the network

    return getattr(cloud_tpu_init, "running_in_cloud_tpu_vm", False)


def quiet_libtpu(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tells libtpu a slice where it is installed and no TPU is there; before JAX looks for devices.

    It finds none all the same, but without asking; else it prints that it cannot tell which slice
    this is. Nothing that is set already is changed.
    """
    wanted = "tpu" in environment.get("JAX_PLATFORMS", "")
    if importlib.util.find_spec("libtpu") and not sees_tpus() and not wanted:
        for name, value in ANY_SLICE.items():
            environment.setdefault(name, value)


def process_id(environment: Mapping[str, str]) -> int:
    """This process's rank as far as the variables tell, for commands that need not join the job.

    Raises:
      UserError: see `explicit_job`.
    """
    job = explicit_job(environment)
    if job is not None:
        return job.process_id
    return int(environment["SLURM_PROCID"]) if managed_by(environment) == "slurm" else 0


def join(heartbeat: float = 60.0, environment: Mapping[str, str] = os.environ) -> None:
    """Joins the job, where this process is one of several; call it before JAX touches a device.

    Args:
      heartbeat: seconds of silence after which a process counts as dead.
      environment: the variables to read.

    Raises:
      UserError: settings that are incomplete or wrong.
      RunError: the coordinator does not answer.
    """
    job = explicit_job(environment)
    manager = "" if job else managed_by(environment)
    if (job is None and not manager) or (job and job.num_processes == 1):
        return
    import jax

    words = {} if job is None else dataclasses.asdict(job)
    if job:
        words["coordinator_address"] = words.pop("coordinator")
    try:
        with _waiting(job, manager):
            jax.distributed.initialize(
                **words,
                # JAX names no rank and aborts; it may do so after half of this. Ours comes first.
                heartbeat_timeout_seconds=2 * int(heartbeat) + _MARGIN,
                initialization_timeout=JOIN_SECONDS,
            )
    except ValueError:
        if manager != "tpu":
            raise
        return  # a machine with TPUs that belongs to no pod: nothing was detected
    except Exception as error:
        where = job.coordinator if job else manager
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{where}: this process could not join its job: {text}") from error
    _start_pulse(heartbeat)


@contextlib.contextmanager
def _waiting(job: Job | None, manager: str) -> Iterator[None]:
    """Tells after five seconds who is waited for, where the coordinator is known by rank."""
    if job:
        with RollCall(job.coordinator, job.process_id, job.num_processes, JOIN_SECONDS):
            yield
        return
    text = f"this process waits for the others of {manager}, at most {JOIN_SECONDS} s; do all run?"
    timer = threading.Timer(SILENCE, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _state():  # jax has no public way to the key-value store of its coordination service
    from jax._src import distributed

    return distributed.global_state


def _start_pulse(heartbeat: float) -> None:
    state = _state()
    rank, count, key = state.process_id, state.num_processes, "vlp_jax/pulse"
    if count == 1:
        return
    if rank == 0:
        hub = pulse.Hub(count, heartbeat)
        state.client.key_value_set(key, f"{hub.port} {hub.token}")
        pulse.install(hub)
        return
    port, token = state.client.blocking_key_value_get(key, 1000 * JOIN_SECONDS).split()
    host = state.coordinator_address.rpartition(":")[0].strip("[]")
    pulse.install(pulse.Spoke((host, int(port)), token, rank, heartbeat))


def gather(text: str) -> list[str]:
    """The text that every process gave, in order of rank, on every process.

    All processes call it, in the same order; no device is used.
    """
    import jax

    if jax.process_count() == 1:
        return [text]
    client, name = _state().client, f"vlp_jax/gather/{next(_calls)}"
    client.key_value_set(f"{name}/{jax.process_index()}", text)
    client.wait_at_barrier(name, 1000 * JOIN_SECONDS)
    ranks = range(jax.process_count())
    return [client.blocking_key_value_get(f"{name}/{rank}", 1000) for rank in ranks]


def from_first(text: str) -> str:
    """The text that process 0 gave, on every process."""
    return gather(text)[0]


def agree(facts: Mapping[str, object]) -> None:
    """Refuses a job whose processes were started differently, on all of them alike.

    Args:
      facts: name -> plain value, e.g. {"optim.lr": 1e-3, "data": digest}.

    Raises:
      UserError: names the differing items and the ranks of each value.
    """
    text = json.dumps(facts, sort_keys=True, default=str)
    if len(set(gather(hashlib.sha256(text.encode()).hexdigest()))) == 1:
        return
    different = differences([json.loads(one) for one in gather(text)])
    pulse.leave()  # all raise the same error: nobody is to report the others as lost
    raise UserError(f"the processes of this job disagree: {'; '.join(different)}")


def differences(facts: Sequence[Mapping[str, object]]) -> list[str]:
    """One text per item that differs: `lr: 1 on ranks 0, 2; 3 on rank 1` becomes
    `lr=1 (ranks 0, 2) but lr=3 (rank 1)`.
    """
    found = []
    for name in sorted(set().union(*facts)):
        ranks: dict[str, list[int]] = {}
        for rank, one in enumerate(facts):
            ranks.setdefault(str(one.get(name, "absent")), []).append(rank)
        if len(ranks) > 1:
            sides = [f"{name}={value} ({ranks_text(of)})" for value, of in ranks.items()]
            found.append(" but ".join(sides))
    return found

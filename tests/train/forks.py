"""Command lines as children of one server process that has imported everything already.

The file exists because the tests of many processes would otherwise spend their time on imports.
"""

import atexit
import contextlib
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import time

MODULES = (
    *("small_runs", "faulty"),
    *("vlp_jax.api.start", "vlp_jax.train.loop", "grain", "tensorboardX"),
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["forks", *MODULES])


def _run(words: list[str], log: pathlib.Path, fault: str, devices: int) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    import jax
    from small_runs import environment

    os.environ.update(environment(devices), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # imported: not by name
    if fault:
        from faulty import plant

        plant(fault)
    from vlp_jax.__main__ import main

    code = main(words)
    sys.stdout.flush()
    atexit._run_exitfuncs()  # a forked process skips them, and jax leaves its job in one
    os._exit(code)


class Child:
    """A command line that runs; its output goes to a file."""

    def __init__(self, words: list[str], log: pathlib.Path, fault: str = "", devices: int = 1):
        self.log = log
        words = [str(word) for word in words]
        self._process = _context.Process(target=_run, args=(words, log, fault, devices))
        self._process.start()
        self.pid = self._process.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def send(self, number: int) -> None:
        """Sends a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, timeout: float = 120) -> tuple[int, str]:
        """(exit code, output); a child that does not end is killed and fails the test."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.send(signal.SIGKILL)
            raise AssertionError(f"still running: {self.log.read_text()[-2000:]}")
        return self._process.exitcode, self.log.read_text()


def job(count: int, words: list[str], folder: pathlib.Path, faults=(), own=()) -> list[Child]:
    """`count` processes of one job; faults: {rank: fault}; own: {rank: more words}."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    faults, own, children = dict(faults), dict(own), []
    flags = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}"]
    for rank in range(count):
        more = [*own.get(rank, []), *flags, f"--process-id={rank}"] if count > 1 else []
        log = folder / f"rank{rank}.log"
        children.append(Child([*words, *more], log, faults.get(rank, "")))
    return children


def ends(children: list[Child], timeout: float = 120) -> tuple[list[int], list[str]]:
    """(exit codes, outputs) of all; none survives a failure."""
    try:
        found = [child.end(timeout) for child in children]
    finally:
        for child in children:
            if child.running():
                child.send(signal.SIGKILL)
    return [code for code, _ in found], [text for _, text in found]


def wait_for_steps(workdir: pathlib.Path, count: int, timeout: float = 240) -> None:
    """Returns once the run has logged so many lines."""
    deadline, file = time.monotonic() + timeout, workdir / "metrics.jsonl"
    while time.monotonic() < deadline:
        if file.exists() and file.read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    tails = [log.read_text()[-1000:] for log in sorted(workdir.parent.glob("*log"))]
    raise AssertionError("\n".join(["the run never came so far:", *tails]))


def children_of(pid: int) -> list[int]:
    """Processes that any thread of that process started (Linux)."""
    files = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]

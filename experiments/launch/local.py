"""N processes of one job on this machine, each with M simulated devices, gloo between them.

    python experiments/launch/local.py [--processes=2] [--devices=1] train --config=C --workdir=W

Each word `--rank=R:WORD` gives WORD to rank R only. Output comes line by line with the rank in
front; signals are passed on to all; when one process ends by an error the others get ten seconds to
end by themselves, and the first to have failed is named. The file exists to try on a laptop what a
pod will run.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).parents[2]
COUNT_FLAG = "--xla_force_host_platform_device_count"
PATIENCE = 10.0  # seconds between the first failure and the kill of what is left


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """The environment of a child with so many simulated CPU devices."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(COUNT_FLAG)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "XLA_FLAGS": " ".join([*flags, f"{COUNT_FLAG}={devices}"]),
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "PYTHONPATH": path,
    }


def words_of(rank: int, words: list[str]) -> list[str]:
    """The words that rank gets, its own ones unwrapped."""
    found = []
    for word in words:
        if word.startswith("--rank="):
            owner, _, word = word.removeprefix("--rank=").partition(":")
            if int(owner) != rank:
                continue
        found.append(word)
    return found


def start(rank: int, count: int, port: int, devices: int, words: list[str]) -> subprocess.Popen:
    """Starts one process, its output in one pipe."""
    job = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}", f"--process-id={rank}"]
    command = [sys.executable, "-m", "vlp_jax", *words_of(rank, words), *job]
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=environment(devices), start_new_session=True, **pipe)


def copy(rank: int, child: subprocess.Popen) -> None:
    """Prints a child's output, the rank before every line."""
    for line in child.stdout:
        print(f"[{rank}] {line}", end="", flush=True)


def wait(children: list[subprocess.Popen]) -> int:
    """Waits for all; returns 0, or the exit code of the first that failed."""
    first, deadline = 0, float("inf")
    running = True
    while running:
        running = any(child.poll() is None for child in children)
        for rank, child in enumerate(children):
            code = child.poll()
            if code and not first:
                first, deadline = code, time.monotonic() + PATIENCE
                print(f"rank {rank} ended first, with exit code {code}", flush=True)
            if code is None and time.monotonic() > deadline:
                print(f"rank {rank} does not end: killed", flush=True)
                child.kill()
                child.wait()
        time.sleep(0.05)
    return first or next((child.returncode for child in children if child.returncode), 0)


def main(argv: list[str]) -> int:
    """Runs the job; returns its exit code (128 + N for a process that signal N ended)."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="simulated devices per process")
    args, words = parser.parse_known_args(argv)
    words = [word for word in words if word != "--"]
    port = free_port()
    children = [start(r, args.processes, port, args.devices, words) for r in range(args.processes)]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: [child.send_signal(n) for child in children])
    readers = [
        threading.Thread(target=copy, args=pair, daemon=True) for pair in enumerate(children)
    ]
    for reader in readers:
        reader.start()
    code = wait(children)
    for reader in readers:
        reader.join(timeout=5)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

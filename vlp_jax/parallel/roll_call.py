"""Who of a job has not come: ranks announce themselves while they wait for each other.

JAX waits for all processes of a job without a word, names nobody, and aborts after five minutes
with a stack trace. So every process that waits sends datagrams to the coordinator's host and port
(of UDP, where JAX listens on TCP), process 0 counts them and answers with the ranks that it lacks.
Nothing depends on them: where a network drops datagrams, only names are missing. The file exists so
that a process that never started is looked for on the right host.
"""

import contextlib
import json
import os
import select
import socket
import threading
import time

from vlp_jax.parallel import pulse

SILENCE = 5.0  # seconds after which a process tells that it waits for the others
_EVERY = 0.5  # seconds between two datagrams
_MARGIN = 5.0  # seconds by which our end comes before JAX's abort


def ranks_text(ranks: list[int]) -> str:
    """[1] -> 'rank 1', [0, 2] -> 'ranks 0, 2'."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())  # one write: lines of several processes stay whole


class RollCall:
    """The wait of one process; `with RollCall(...)` around the join.

    Args:
      coordinator: HOST:PORT of process 0. rank, count: of the job.
      limit: seconds after which JAX gives up.
    """

    def __init__(self, coordinator: str, rank: int, count: int, limit: float):
        host, _, port = coordinator.rpartition(":")
        self.coordinator, self._address = coordinator, (host.strip("[]"), int(port))
        self.rank, self.count, self.limit = rank, count, limit
        self.heard: set[int] = {rank}
        self.missing: list[int] | None = None  # what process 0 says, where it has answered
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="roll call", daemon=True)

    def __enter__(self) -> "RollCall":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # the thread ends by itself: no start waits for it

    def line(self) -> str:
        """What is told: `rank 1 of 4 waits for ranks 2, 3 at HOST:PORT ...`."""
        lacking = self.missing
        if self.rank == 0:
            lacking = sorted(set(range(self.count)) - self.heard)
        elif lacking is None:
            lacking = [0]  # where it does not answer
        others = ranks_text(lacking) if lacking else "the others"
        return f"rank {self.rank} of {self.count} waits for {others} at {self.coordinator}"

    def _run(self) -> None:
        start, told = time.monotonic(), False
        with contextlib.closing(self._socket()) as sock:
            while not self._over.is_set():
                self._exchange(sock)
                waited = time.monotonic() - start
                if waited > SILENCE and not told:
                    told = True
                    _say(f"{self.line()}, at most {self.limit:.0f} s; do all of them run?")
                if waited > self.limit - _MARGIN:
                    self._end(f"error: {self.line()}; they never came, the job ends")

    def _end(self, text: str) -> None:
        if not self._over.is_set():
            _say(text)
            pulse.quit_now(pulse.EXIT_LOST)

    def _socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if self.rank == 0:
            with contextlib.suppress(OSError):
                sock.bind(("", self._address[1]))
        return sock

    def _exchange(self, sock: socket.socket) -> None:
        if self.rank:
            with contextlib.suppress(OSError):
                sock.sendto(json.dumps({"rank": self.rank}).encode(), self._address)
        if not select.select([sock], [], [], _EVERY)[0]:
            return
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            data, sender = sock.recvfrom(1 << 16)
            message = json.loads(data)
            if self.rank:
                self.missing = [rank for rank in message["missing"] if 0 <= rank < self.count]
            elif 0 < message["rank"] < self.count:
                self.heard.add(message["rank"])
                missing = sorted(set(range(self.count)) - self.heard)
                sock.sendto(json.dumps({"missing": missing}).encode(), sender)

"""The pulse of a job of several processes: who died, who failed, who is slow, by rank.

JAX's coordination service ends a job whose process died, but by a fatal error that names no rank
when it was the coordinator's. So every process keeps a socket to process 0: a kill closes it at
once, a lost host falls silent, an error is told before it ends the process, and process 0 passes
the verdict on. Lines are JSON objects. The file exists so that a dead or hung pod says which of its
hosts to look at.
"""

import contextlib
import hmac
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

EXIT_LOST = 69  # EX_UNAVAILABLE of sysexits.h: another process died, or the run hung
PHASES = ("start", "evaluate", "save", "data", "compile", "step")  # in the order of the loop
UNTIMED = ("start", "compile")  # phases that may take as long as they take
_LINGER = 1.0  # seconds that process 0 outlives its verdict, since its end ends all the others
_LIMIT = 1 << 16  # bytes of one line


class Link:
    """One socket and the lines that come through it."""

    def __init__(self, sock: socket.socket, timeout: float):
        sock.settimeout(timeout)
        self.sock, self.heard, self._rest = sock, time.monotonic(), b""
        self.rank = -1
        self.place: tuple[int, str] = (0, "start")
        self.bye = False

    def fileno(self) -> int:
        """For selectors."""
        return self.sock.fileno()

    def send(self, **message: Any) -> None:
        """Sends one line; a link that is gone is noticed where it is read."""
        with contextlib.suppress(OSError):
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None when the other side is gone or talks nonsense."""
        try:
            data = self.sock.recv(_LIMIT)
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        if not data or len(self._rest) > _LIMIT:
            return messages or None
        self.heard = time.monotonic()
        return messages


class Pulse:
    """What both ends share: where this process stands, and how it ends.

    Attributes:
      rank: of this process. seconds: of silence after which a process counts as dead.
    """

    def __init__(self, rank: int, seconds: float):
        self.rank, self.seconds = rank, seconds
        self.interval = min(1.0, seconds / 5)
        self.place: tuple[int, str] = (0, "start")
        self._over = threading.Lock()  # taken by the first verdict
        self._turn = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def _run(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def _forgive(self, links: Iterable[Link]) -> None:
        """Leaves out the time that this process itself did not run (a debugger, a frozen host)."""
        asleep = time.monotonic() - self._turn - 2 * self.interval
        self._turn = time.monotonic()
        for link in links if asleep > 0 else ():
            link.heard += asleep


class Hub(Pulse):
    """Process 0: hears all others and tells every one of them a verdict."""

    def __init__(self, count: int, seconds: float):
        super().__init__(0, seconds)
        self.count, self.token = count, secrets.token_hex(16)
        self._listener = socket.create_server(("", 0), backlog=min(count, 1024))
        self.port = self._listener.getsockname()[1]
        self._links: dict[int, Link] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ended = threading.Event()

    def _run(self) -> None:
        beat = 0.0
        while not self._ended.is_set():
            for key, _ in self._selector.select(self.interval / 2):
                if key.fileobj is self._listener:
                    link = Link(self._listener.accept()[0], self.seconds)
                    self._selector.register(link, selectors.EVENT_READ)
                else:
                    self._hear(key.fileobj)
            self._forgive(self._links.values())
            for link in self._links.values():
                if not link.bye and self._silent(link) > self.seconds:
                    self.end(link.rank, f"has been silent for {self._silent(link):.0f} s")
            if time.monotonic() - beat > self.interval:
                beat = time.monotonic()
                for link in self._awake():
                    link.send(beat=True)

    def _silent(self, link: Link) -> float:
        return time.monotonic() - link.heard

    def _awake(self) -> list[Link]:
        """Links that answer: to write to another one could block."""
        return [link for link in self._links.values() if self._silent(link) < 3 * self.interval]

    def _hear(self, link: Link) -> None:
        messages = link.read()
        for message in messages or []:
            if "token" in message and hmac.compare_digest(str(message["token"]), self.token):
                link.rank = int(message["rank"])
                self._links[link.rank] = link
            if link.rank < 0:
                messages = None  # a stranger
                break
            link.place = tuple(message.get("place", link.place))
            link.bye = link.bye or "bye" in message
            if "failed" in message:
                self.end(link.rank, f"failed: {message['failed']}", message["code"])
        if messages is None:
            self._selector.unregister(link)
            link.sock.close()
            if link.rank >= 0 and not link.bye:
                link.bye = True
                self.end(
                    link.rank, f"died (last heard in {link.place[1]!r} of step {link.place[0]})"
                )

    def slowest(self) -> tuple[int, str] | None:
        """The rank that holds the others up, and how: silent, or furthest behind in the loop; None
        while that one compiles.
        """
        present = [link for link in self._links.values() if not link.bye]
        silent = [link for link in present if link not in self._awake()]
        if silent:
            worst = max(silent, key=self._silent)
            return worst.rank, f"has been silent for {self._silent(worst):.1f} s"
        places = {link.rank: link.place for link in present} | {0: self.place}
        order = {rank: (step, PHASES.index(phase)) for rank, (step, phase) in places.items()}
        rank = min(order, key=order.get)
        step, phase = places[rank]
        if phase in UNTIMED:
            return None
        alone = sum(value == order[rank] for value in order.values()) == 1 or len(order) == 1
        return rank, f"hangs in {phase!r} of step {step}" + ("" if alone else ", as do others")

    def end(self, rank: int, why: str, code: int = EXIT_LOST) -> None:
        """Tells everyone the verdict and ends this process."""
        if not self._over.acquire(blocking=False):
            return
        for link in self._awake():
            link.send(lost=rank, why=why, code=code)
        say(rank, why)
        time.sleep(_LINGER)
        quit_now(code)

    def fail(self, text: str, code: int) -> None:
        """Tells everyone that this process fails; it outlives the others' own messages, and their
        ends that follow are no deaths.
        """
        self._over.acquire(blocking=False)
        for link in self._awake():
            link.send(lost=0, why=f"failed: {text}", code=code)
        time.sleep(_LINGER)

    def leave(self) -> None:
        """Waits until the others are done as well, then stops listening."""
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and not all(x.bye for x in self._links.values()):
            time.sleep(0.02)
        self._ended.set()


class Spoke(Pulse):
    """Any other process: tells process 0 where it stands and listens for its verdict."""

    def __init__(self, address: tuple[str, int], token: str, rank: int, seconds: float):
        super().__init__(rank, seconds)
        self._link = Link(socket.create_connection(address, timeout=seconds), self.interval / 2)
        self._link.send(token=token, rank=rank)
        self._left = False

    def _run(self) -> None:
        beat = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            while not self._left:
                messages = self._link.read() if selector.select(self.interval / 2) else []
                for message in messages or []:
                    if "lost" in message and not self._left:
                        self.end(message["lost"], message["why"], message["code"])
                if self._left:
                    return
                if messages is None:
                    self.end(0, "died")
                self._forgive([self._link])
                if self.silence() > self.seconds:
                    self.end(0, f"has been silent for {self.silence():.0f} s")
                if time.monotonic() - beat > self.interval:
                    beat = time.monotonic()
                    self._link.send(place=self.place)

    def silence(self) -> float:
        """Seconds since process 0 was heard."""
        return time.monotonic() - self._link.heard

    def slowest(self) -> tuple[int, str] | None:
        """Process 0 when it is silent; otherwise None: it knows and will tell."""
        late = self.silence()
        return (0, f"has been silent for {late:.1f} s") if late > 3 * self.interval else None

    def end(self, rank: int, why: str, code: int = EXIT_LOST) -> None:
        """Names the rank and ends this process."""
        if not self._over.acquire(blocking=False):
            return
        say(rank, why)
        quit_now(code)

    def fail(self, text: str, code: int) -> None:
        """Tells process 0, which tells the others, that this process fails."""
        self._left = True
        self._link.send(failed=text, code=code)
        time.sleep(_LINGER / 2)  # a socket closed with unread beats would take the message along

    def leave(self) -> None:
        """Says that this process is done, so that its end is no death."""
        self._left = True
        self._link.send(bye=True)


_installed: Hub | Spoke | None = None


def install(pulse: Hub | Spoke) -> None:
    """Makes it this process's pulse and starts it."""
    global _installed
    _installed = pulse
    pulse.start()


def current() -> Hub | Spoke | None:
    """This process's pulse; None in a job of one."""
    return _installed


def leave() -> None:
    """This process ends as it should."""
    global _installed
    pulse, _installed = _installed, None
    if pulse is not None:
        pulse.leave()


def fail(text: str, code: int, known: bool) -> None:
    """This process ends by an error of its own; returns when the others have been told.

    An error that is not `known` may be the echo of another's death, whose verdict comes first.
    """
    global _installed
    pulse, _installed = _installed, None
    if pulse is None:
        return
    if not known:
        time.sleep(2 * _LINGER)
    pulse.fail(text, code)
    quit_now(code)


def say(rank: int, why: str) -> None:
    """Names a rank on stderr, in one write of one line."""
    hint = "" if why.startswith("failed") else "; the same command goes on from the last checkpoint"
    os.write(2, f"error: rank {rank} {why}; every process of the job ends{hint}\n".encode())


def quit_now(code: int) -> None:
    """Ends this process although its main thread may wait for a dead one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)

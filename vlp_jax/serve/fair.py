"""Whose turn it is: a queue per client, of which each is served in turn.

A client is an address (`client_of`). A connection of HTTP/1.1 has one request at work, so a plain
queue is fair to connections as it is; what floods is one address with many of them. The file exists
so that such a flood waits for itself and not everybody for it.
"""

import asyncio
import collections
import contextlib
import ipaddress
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from vlp_jax.serve.requests import Refused

T = TypeVar("T")


def client_of(host: str) -> str:
    """Who an address belongs to: itself, of IPv6 its /64, which is what one machine is given.

    >>> client_of("2001:db8::1"), client_of("::ffff:10.0.0.1")
    ('2001:db8::', '10.0.0.1')
    """
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        if ip.version == 6:
            return str(ip.ipv4_mapped or ipaddress.ip_address((int(ip) >> 64) << 64))
    return host


class Turns(Generic[T]):
    """Items that wait.

    Args:
      room: items in all, half of them of one client at most; a newcomer to a full room takes the
        place of the last item of the client that has most. what: they are, for the refusal.
    """

    def __init__(self, room: int, what: str):
        self._room, self._what = room, what
        self._queues: dict[str, collections.deque[T]] = {}  # the next client first

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def ahead(self, client: str) -> tuple[int, int]:
        """(items that are taken before a new one of this client, its own among them)."""
        own = len(self._queues.get(client, ()))
        return sum(min(len(queue), own + 1) for queue in self._queues.values()), own

    def put(self, client: str, item: T) -> T | None:
        """Adds an item; the one that had to leave for it.

        Raises:
          Refused: 429, this client has too many or nobody has more than it.
        """
        own, longest = len(self._queues.get(client, ())), None
        if len(self) >= self._room:
            longest = max(self._queues.values(), key=len)
        if own >= self._room // 2 or (longest is not None and len(longest) <= own + 1):
            raise self.full()
        gone = longest.pop() if longest is not None else None
        self._queues.setdefault(client, collections.deque()).append(item)
        return gone

    def full(self) -> Refused:
        """What a client is told whose item finds no place."""
        return Refused(429, f"busy: too many {self._what} wait; try again")

    def take(self, most: int, each: int, without: Collection[str] = ()) -> list[T]:
        """At most `most` items, of one client at most `each`, of those in `without` none; the
        clients take turns."""
        taken: list[T] = []
        for _ in range(each):
            clients = [client for client in self._queues if client not in without]
            for client in clients[: most - len(taken)]:
                queue = self._queues.pop(client)
                taken.append(queue.popleft())
                if queue:
                    self._queues[client] = queue
        return taken


class Pool:
    """A few threads for work of many clients, who take turns.

    Args:
      name: of the threads. start: called in each. waiting: items in all. what: they are, for the
        refusal.
    """

    def __init__(
        self, name: str, threads: int, what: str, waiting: int, start: Callable | None = None
    ):
        self._pool = ThreadPoolExecutor(threads, name, initializer=start)
        self._free = threads
        self._turns: Turns[tuple] = Turns(waiting, what)

    async def __call__(self, client: str, work: Callable[..., Any], *args: Any) -> Any:
        """What work(*args) returns. Raises Refused: 429, too many wait."""
        future = asyncio.get_running_loop().create_future()
        gone = self._turns.put(client, (future, work, args))
        if gone is not None:
            settle(gone[0], self._turns.full())
        self._next()
        return await future

    def _next(self) -> None:
        """Starts what may start."""
        loop = asyncio.get_running_loop()
        while self._free and (some := self._turns.take(1, 1)):
            ((future, work, args),) = some
            if not future.done():
                self._free -= 1
                running = loop.run_in_executor(self._pool, work, *args)
                running.add_done_callback(lambda done, future=future: self._finish(done, future))

    def _finish(self, done: asyncio.Future, future: asyncio.Future) -> None:
        self._free += 1
        if done.cancelled():
            future.cancel()
        else:
            settle(future, done.exception() or done.result())
        self._next()

    def close(self) -> None:
        """Ends the threads after what they do."""
        for future, *_ in self._turns.take(len(self._turns), len(self._turns)):
            future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


def settle(future: asyncio.Future, result: Any) -> None:
    """Hands a result, or an Exception, to who still waits for it."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)

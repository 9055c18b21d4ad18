"""Requests that arrive while one batch runs become the next: concurrent queries in few shapes.

Compiled programs want one shape, requests come one by one. Whatever waits is taken together, at
most 8 at once, by one worker thread, and filled up to one of three sizes (`padded`). Where several
clients ask and batches are slow, each has one query in a batch, so that a flood makes none long,
and a crowd (a client that has many) waits in gaps between the others for a share of the time. The
file exists so that 500 clients cost a dozen programs and queues of known length, and so that no two
threads run the model at once.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from vlp_jax.serve.fair import Turns, settle

SIZES = (1, 4, 8)  # of batches, which are compiled; larger ones would let others wait too long
PATIENCE = 1.0  # seconds that a query may have to wait
QUICK = 0.02  # seconds of a batch that delays nobody
MIXED = 2.0  # seconds after which a client counts as gone, and a crowd as none
CROWD = 8  # queries of one client that make it a crowd; to be refused does, too
SHARE = 0.25  # of the time is a crowd's while others ask
T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects items of concurrent tasks for one function of a list.

    Args:
      run: list of items -> as many results; an Exception among them is raised to its own caller.
        Called in the worker's thread.
      waiting: items that may wait; above that, or where the wait would be longer than `PATIENCE`
        by what the last batches took, they are refused.
    """

    def __init__(self, run: Callable[[list[T]], Sequence[R]], waiting: int = 256):
        self._run = run
        self._seconds = 0.0  # of a batch, a moving mean
        self._last: str | None = None  # who asked last
        self._mixed = -MIXED  # when that was another one than before
        self._crowds: dict[str, float] = {}  # client -> when it was one
        self._gap = 0.0  # no crowd's turn before this time
        self._came = asyncio.Event()
        self._turns: Turns[tuple[T, asyncio.Future]] = Turns(waiting, "queries")
        self._worker = ThreadPoolExecutor(1, "batches")
        self._task: asyncio.Task | None = None

    async def __call__(self, item: T, client: str = "") -> R:
        """The result of an item.

        Raises:
          Refused: 429, too many wait, of this client or of all.
        """
        loop = asyncio.get_running_loop()
        now, (ahead, own) = loop.time(), self._turns.ahead(client)
        if own >= CROWD:
            self._crowds[client] = now
        turns = own / self._each(now) / (SHARE if client in self._crowding(now) else 1)
        if max(ahead / SIZES[-1], turns) * self._seconds > PATIENCE:
            self._crowds[client] = now
            raise self._turns.full()
        if self._last not in (None, client):
            self._mixed = now
        self._last = client
        future = loop.create_future()
        gone = self._turns.put(client, (item, future))
        if gone is not None:
            settle(gone[1], self._turns.full())
        self._came.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def alone(self, work: Callable[..., Any], *args: Any) -> Any:
        """A call in the worker's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *args)

    async def _drain(self) -> None:
        """Runs batches until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._turns:
            start = loop.time()
            crowds = self._crowding(start)
            waited = self._turns.take(SIZES[-1], self._each(start), crowds)
            gap = not waited
            if gap and start < self._gap:
                self._came.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._came.wait(), self._gap - start)
                continue
            waited = waited or self._turns.take(1, 1)
            some = [(item, future) for item, future in waited if not future.done()]
            if not some:
                continue
            items = [item for item, _ in some]
            try:
                results = await loop.run_in_executor(self._worker, self._run, items)
            except Exception as error:  # of the whole batch: every caller hears it
                results = [error] * len(items)
            took = loop.time() - start
            self._seconds += 0.2 * (took - self._seconds)
            if gap:
                self._gap = loop.time() + min(took * (1 / SHARE - 1), MIXED)
            for (_, future), result in zip(some, results, strict=True):
                settle(future, result)

    def _crowding(self, now: float) -> set[str]:
        """Clients that wait in the gaps: none where batches are quick or one client asks alone."""
        if self._each(now) > 1:
            return set()
        self._crowds = {name: at for name, at in self._crowds.items() if now - at < MIXED}
        return set(self._crowds)

    def _each(self, now: float) -> int:
        """Queries of one client in a batch."""
        alone = now - self._mixed > MIXED
        return SIZES[-1] if alone or self._seconds < QUICK else 1

    def close(self) -> None:
        """Ends the worker after what it does."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def full(count: int) -> int:
    """What a batch of count >= 1 is filled up to.

    >>> [full(n) for n in (1, 2, 8, 9)]
    [1, 4, 8, 16]
    """
    return next((size for size in SIZES if size >= count), -(-count // SIZES[-1]) * SIZES[-1])


def padded(items: Sequence[T]) -> list[T]:
    """The items and copies of the first, as many as `full` says; empty stays empty."""
    return [*items, *[items[0]] * (full(len(items)) - len(items))] if items else []


def padded_rows(rows: np.ndarray) -> np.ndarray:
    """[n, ...] -> [full(n), ...], filled with the first row."""
    return np.concatenate([rows, np.repeat(rows[:1], full(len(rows)) - len(rows), axis=0)])

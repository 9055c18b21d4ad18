"""Requests that arrive while one batch runs become the next: concurrent queries in few shapes.

Compiled programs want one shape, requests come one by one. Whatever waits is taken together, at
most 8 at once, by one worker thread, and filled up to one of three sizes (`padded`); where several
clients ask and batches are slow, each has one query in a batch, so that a flood makes none long.
The file exists so that 500 clients cost a dozen programs and queues of known length, and so that no
two threads run the model at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from vlp_jax.serve.fair import Turns, settle

SIZES = (1, 4, 8)  # of batches, which are compiled; larger ones would let others wait too long
PATIENCE = 1.0  # seconds that a query may have to wait
QUICK = 0.02  # seconds of a batch that delays nobody
MIXED = 2.0  # seconds after which a client counts as gone
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
        self._turns: Turns[tuple[T, asyncio.Future]] = Turns(waiting, "queries")
        self._worker = ThreadPoolExecutor(1, "batches")
        self._task: asyncio.Task | None = None

    async def __call__(self, item: T, client: str = "") -> R:
        """The result of an item.

        Raises:
          Refused: 429, too many wait, of this client or of all.
        """
        loop = asyncio.get_running_loop()
        ahead, own = self._turns.ahead(client)
        if max(ahead / SIZES[-1], own / self._each(loop.time())) * self._seconds > PATIENCE:
            raise self._turns.full()
        if self._last not in (None, client):
            self._mixed = loop.time()
        self._last = client
        future = loop.create_future()
        gone = self._turns.put(client, (item, future))
        if gone is not None:
            settle(gone[1], self._turns.full())
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
            waited = self._turns.take(SIZES[-1], self._each(loop.time()))
            some = [(item, future) for item, future in waited if not future.done()]
            if not some:
                continue
            items, start = [item for item, _ in some], loop.time()
            try:
                results = await loop.run_in_executor(self._worker, self._run, items)
            except Exception as error:  # of the whole batch: every caller hears it
                results = [error] * len(items)
            self._seconds += 0.2 * (loop.time() - start - self._seconds)
            for (_, future), result in zip(some, results, strict=True):
                settle(future, result)

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

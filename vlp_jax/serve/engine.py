"""The asynchronous half of a query: pictures decoded, URLs fetched, then a place in a batch.

Pictures are decoded one at a time by a thread that yields to all others, so that nobody's picture
slows another's words. The file exists so that the routes know nothing of models and threads.
"""

import asyncio
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.serve.batching import SIZES, Batcher
from vlp_jax.serve.fetch import fetch
from vlp_jax.serve.lookup import Found, Lookup
from vlp_jax.serve.metrics import Metrics
from vlp_jax.serve.requests import Part, Query, Refused
from vlp_jax.serve.search import Searcher

WAITING = 16  # pictures that may wait for the decoder, and as many downloads
EMBEDDED = 32  # texts of a long list between two batches of queries


class Engine:
    """Answers queries over one index.

    Args:
      searcher: over an open index. metrics: where it counts. fetching: whether URLs are fetched.
    """

    def __init__(self, searcher: Searcher, metrics: Metrics, fetching: bool = False):
        self.searcher, self.index, self.metrics = searcher, searcher.index, metrics
        self._fetching = fetching
        self._lookup = Lookup(searcher, metrics)
        self._batch: Batcher[Query, Found] = Batcher(self._lookup.run)
        self._decoder = _Queue("decoder", 1, "pictures", _yielding)
        self._fetcher = _Queue("fetcher", 4, "downloads")

    async def find(self, query: Query) -> Found:
        """The rows for a query; of `k` = 0 only its vector.

        Raises:
          Refused: a part that cannot be read, or too many queries at once.
        """
        if query.modality not in self.index.modalities and query.k:
            has = " and ".join(self.index.modalities)
            raise Refused(400, f"modality: no {query.modality} vectors in this index, only {has}")
        ready = [await self._ready(part) for part in query.parts]
        return await self._batch(dataclasses.replace(query, parts=tuple(ready)))

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, E] of a long list of texts, a few between the batches of queries.

        Raises:
          Refused: one that cannot be embedded.
        """
        rows: list[Any] = []
        for at in range(0, len(texts), EMBEDDED):
            some = texts[at : at + EMBEDDED]
            rows += await self._batch.alone(self._lookup.texts, some)
        for row in rows:
            if isinstance(row, Exception):
                raise row
        return np.stack(rows)

    async def warm_up(self) -> None:
        """Compiles every size of a batch, between the queries that come meanwhile."""
        for size in SIZES:
            await self._batch.alone(self._lookup.warm_up, size)

    def close(self) -> None:
        """Ends the threads after what they do."""
        self._batch.close()
        self._decoder.close()
        self._fetcher.close()

    async def _ready(self, part: Part) -> Part:
        """A part as a batch takes it: a picture's file as uint8[S, S, 3], a row as its vector."""
        if part.kind == "url":
            part = Part("image", await self._fetch(part.value), part.weight)
        if part.kind == "image":
            return Part("image", await self._decode(part.value), part.weight)
        if part.kind == "id":
            side = self.index.modalities[0]  # `image` where there are any
            rows = await asyncio.to_thread(self.index.vectors, [part.value], side)
            return Part("vector", rows[0], part.weight)
        return part

    async def _fetch(self, url: str) -> bytes:
        if not self._fetching:
            raise Refused(403, "image_url: this service fetches no URLs (serve --fetch-urls does)")
        with self.metrics.time("download_time"):
            return await self._fetcher(fetch, url)

    async def _decode(self, data: bytes) -> np.ndarray:
        if self.searcher.model is None:
            raise Refused(400, "image: this service has no model (serve --checkpoint=DIR)")
        with self.metrics.time("image_prepro_time"):
            try:
                return await self._decoder(self.searcher.model.decode, data)
            except (DamagedSample, UserError) as error:
                raise Refused(400, f"image: {str(error).replace('_', ' ')}") from None


class _Queue:
    """A few threads and a bound on what waits for them."""

    def __init__(self, name: str, threads: int, what: str, start: Callable[[], None] | None = None):
        self._pool = ThreadPoolExecutor(threads, name, initializer=start)
        self._what, self._held = what, 0

    async def __call__(self, work: Callable[[Any], Any], item: Any) -> Any:
        if self._held >= WAITING:
            raise Refused(429, f"busy: too many {self._what} at once; try again")
        self._held += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, item)
        finally:
            self._held -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _yielding() -> None:
    """Gives this thread the lowest priority (Linux counts threads as processes here)."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)

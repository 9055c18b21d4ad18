"""The asynchronous half of a query: pictures decoded, URLs fetched, then a place in a batch.

Pictures are decoded one at a time by a thread that yields to all others, so that nobody's picture
slows another's words. The file exists so that the routes know nothing of models and threads.
"""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.serve.batching import SIZES, Batcher
from vlp_jax.serve.fair import Pool
from vlp_jax.serve.fetch import fetch
from vlp_jax.serve.lookup import Found, Lookup
from vlp_jax.serve.metrics import Metrics
from vlp_jax.serve.requests import Part, Query, Refused
from vlp_jax.serve.search import Searcher

WAITING = 16  # pictures that may wait for the decoder, and as many downloads
LOOK_UPS = 1024  # of metadata and thumbnails; half as many as there may be connections
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
        self._decoder = Pool("decoder", 1, "pictures", WAITING, _yielding)
        self._fetcher = Pool("fetcher", 4, "downloads", WAITING)
        self._reader = Pool("reader", 2, "look-ups", LOOK_UPS)

    async def find(self, query: Query, client: str = "") -> Found:
        """The rows for a query; of `k` = 0 only its vector. client: who asks (fair.py).

        Raises:
          Refused: a part that cannot be read, or too many queries at once.
        """
        if query.modality not in self.index.modalities and query.k:
            has = " and ".join(self.index.modalities)
            raise Refused(400, f"modality: no {query.modality} vectors in this index, only {has}")
        ready = [await self._ready(part, client) for part in query.parts]
        return await self._batch(dataclasses.replace(query, parts=tuple(ready)), client)

    async def read(self, client: str, work: Callable[..., Any], *args: Any) -> Any:
        """What work(*args) reads of the index's files. Raises Refused: too many wait."""
        return await self._reader(client, work, *args)

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

    async def warm_up(self, columns: Sequence[str]) -> None:
        """Compiles every size of a batch, between the queries that come meanwhile, and reads
        columns of the metadata: forty results lie in as many row groups."""
        await self.read("", self.index.table.warm, columns)
        for size in SIZES:
            await self._batch.alone(self._lookup.warm_up, size)

    def close(self) -> None:
        """Ends the threads after what they do."""
        self._batch.close()
        for pool in (self._decoder, self._fetcher, self._reader):
            pool.close()

    async def _ready(self, part: Part, client: str) -> Part:
        """A part as a batch takes it: a picture's file as uint8[S, S, 3], a row as its vector."""
        if part.kind == "url":
            part = Part("image", await self._fetch(part.value, client), part.weight)
        if part.kind == "image":
            return Part("image", await self._decode(part.value, client), part.weight)
        if part.kind == "id":
            side = self.index.modalities[0]  # `image` where there are any
            rows = await self.read(client, self.index.vectors, [part.value], side)
            return Part("vector", rows[0], part.weight)
        return part

    async def _fetch(self, url: str, client: str) -> bytes:
        if not self._fetching:
            raise Refused(403, "image_url: this service fetches no URLs (serve --fetch-urls does)")
        with self.metrics.time("download_time"):
            return await self._fetcher(client, fetch, url)

    async def _decode(self, data: bytes, client: str) -> np.ndarray:
        if self.searcher.model is None:
            raise Refused(400, "image: this service has no model (serve --checkpoint=DIR)")
        with self.metrics.time("image_prepro_time"):
            try:
                return await self._decoder(client, self.searcher.model.decode, data)
            except (DamagedSample, UserError) as error:
                raise Refused(400, f"image: {str(error).replace('_', ' ')}") from None


def _yielding() -> None:
    """Gives this thread the lowest priority (Linux counts threads as processes here)."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)

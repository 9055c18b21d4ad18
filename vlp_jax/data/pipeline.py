"""Batches for training and evaluation.

Grain runs the reading threads or processes; the order and all host randomness are pure functions of
(seed, epoch, position) from `order`. The file exists so that the step alone restores the data
position, exactly, on any number of processes.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from absl import flags

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.fields import Field
from vlp_jax.data.damage import Damage, DamagedSample, DamageLog
from vlp_jax.data.decode import tune_pillow
from vlp_jax.data.fields.base import Reader, Setup, make_readers, read_row, stack
from vlp_jax.data.lengths import Buckets, LengthCounter, open_buckets
from vlp_jax.data.mixture import PlainOrder, open_mixture
from vlp_jax.data.order import example_rng, replacement
from vlp_jax.data.per_caption import PerCaption
from vlp_jax.data.source import check_key
from vlp_jax.data.text.named import open_tokenizers

_log = logging.getLogger(__name__)
MAX_ATTEMPTS = 32
_CHUNK = 32  # rows that one worker call prepares
_END = 2**40  # positions; an epoch of a billion examples fits a thousand times


@dataclass(frozen=True)
class DataSpec:
    """The `data` section of a config as far as it is of no single field, with the defaults of every
    key that is left out.
    """

    path: str = ""
    holdout: float = 0.0
    filters: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    workers: int = 0
    threads: int = 4
    prefetch: int = 8
    shuffle: str = "global"
    damage_budget: float = 1e-3
    captions_per_picture: int = 0

    @classmethod
    def from_config(cls, data: Mapping[str, Any]) -> "DataSpec":
        """Reads a ConfigDict or dict."""
        names = cls.__dataclass_fields__
        found = {name: data[name] for name in names if data.get(name) is not None}
        for name in ("weights", "buckets"):
            found[name] = tuple(found.get(name, getattr(cls, name)))
        return cls(**found)


@dataclass
class RowReader:
    """Prepares rows of a batch; picklable, so that it runs in grain's threads or processes."""

    source: Any
    order: Any
    readers: dict[str, Reader]
    seed: int
    buckets: Buckets | None = None

    def fill(self, position: int, index: int, limit: int | None, events: list) -> dict[str, Any]:
        """The row of example `index` at a stream position; damage is reported in `events` and
        replaced, by an example that fits the batch's `limit` of tokens."""
        epoch, place = self.order.epoch(position)
        stream = functools.partial(example_rng, self.seed, epoch, place)
        for attempt in range(MAX_ATTEMPTS):
            try:
                return self._row(index, stream, limit, events)
            except DamagedSample as damage:
                events.append(("damage", damage.reason, damage.where or self.source.where(index)))
                index = replacement(self.seed, epoch, place, attempt, len(self.source))
                index = self.buckets.fitting(index, limit) if limit else index
        raise RunError(
            f"{MAX_ATTEMPTS} examples in a row are damaged; last: {events[-1][2]}: {events[-1][1]}"
        )

    def _row(
        self,
        index: int,
        stream: Callable[[str], np.random.Generator],
        limit: int | None,
        events: list,
    ) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for reader, value, clipped in read_row(self.readers, self.source, index, stream):
            events += [("clipped", reason, self.source.where(index)) for reason in clipped]
            if limit and not reader.fits(value, limit):
                where = f"{self.source.where(index)} (the next start counts it anew)"
                raise DamagedSample("caption_changed", where)
            row[reader.name] = value
        return row

    def chunk(self, step: int, start: int, count: int) -> dict[str, Any]:
        """Rows at stream positions [start, start + count) of a step, stacked, with their events."""
        events: list = []
        positions = range(start, start + count)
        indices = self.order.index(np.asarray(positions)).tolist()
        limit = self.buckets.at(step) if self.buckets else None
        rows = [self.fill(p, i, limit, events) for p, i in zip(positions, indices, strict=True)]
        return {**stack(self.readers, rows, limit), "events": events}


class TrainPipeline:
    """Endless training batches of a method's fields, of the examples that `data.path` names.

    Row r of step s is position s x batch_size + offset + r of the stream; every example comes once
    per epoch (batches run across epoch borders). The offset is that of a run whose batch size was
    changed on the way (train/workdir.py), else 0. Raises UserError before any work for a bad path,
    an unknown setting or a batch that the processes cannot share; warns of a batch above the data.
    tokenizers: {field: its tokenizer}; those that `data` names where it is None.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        fields: Mapping[str, Field],
        *,
        batch_size: int,
        seed: int,
        tokenizers: Mapping[str, Any] | None = None,
        process_index: int = 0,
        process_count: int = 1,
        offset: int = 0,
    ):
        self.offset = offset
        self.spec = spec = DataSpec.from_config(data)
        self.batch_size, self.process_index = batch_size, process_index
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"batch_size={batch_size} cannot be shared by {process_count} processes"
            )
        self.local_size = batch_size // process_count
        if tokenizers is None:
            tokenizers = open_tokenizers(fields, data)
        readers = make_readers(fields, Setup(data, tokenizers))
        self.source, self.order = open_mixture(
            spec.path, spec.weights, seed, spec.shuffle, spec.holdout, spec.filters
        )
        if spec.captions_per_picture:
            self._spread(seed)
        self.num_examples = len(self.source)
        if batch_size > self.num_examples:  # batches run across epoch borders, so this still works
            _log.warning(
                "batch_size=%d is above the %d examples of data.path=%r: examples repeat",
                *(batch_size, self.num_examples, spec.path),
            )
        self.steps_per_epoch = self.num_examples / batch_size
        self.fingerprint = self.source.fingerprint
        self.log = DamageLog(self.num_examples, spec.damage_budget, self.source.damage)
        self.log.check()
        if data.get("label"):  # a typo is told, whether or not a field reads it
            check_key(self.source, data["label"], "data.label")
        for reader in readers.values():
            reader.prepare(self.source, spec.path)
        self.clipped: Counter = Counter()
        self.buckets = None
        cut = [reader for reader in readers.values() if reader.cut]
        if spec.buckets:
            counters = [LengthCounter(self.source, r.tokenizer, r.captions) for r in cut]
            self.buckets = open_buckets(counters, spec.buckets, self.order, batch_size, offset)
        self._reader = RowReader(self.source, self.order, readers, seed, self.buckets)
        self._reader.chunk(0, 0, 1)  # a mistake in the settings shows here, not in a worker

    def _spread(self, seed: int) -> None:
        """Makes so many captions of a picture samples of their own."""
        if self.spec.weights:
            raise UserError("data.captions_per_picture: not with data.weights; remove one")
        self.source = PerCaption(self.source, self.spec.captions_per_picture)
        self.order = PlainOrder(len(self.source), seed, self.spec.shuffle)

    def seen(self, step: int) -> int:
        """Examples that come before those of a step: its place in the stream."""
        return step * self.batch_size + self.offset

    @property
    def dropped(self) -> Counter:
        """Damage met so far: reason -> number of distinct places."""
        return self.log.counts

    def keys(self, step: int) -> list[str]:
        """Keys of the whole global batch of a step, in order, before any replacement."""
        positions = self.seen(step) + np.arange(self.batch_size)
        return [self.source.metadata(int(i))["key"] for i in self.order.index(positions)]

    def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Host-local batches from `start_step` on, without end.

        Yields the arrays of the fields (core/fields.py), b = batch_size / process_count rows of
        each; texts that may be cut have the step's bucket of columns under data.buckets. Raises
        RunError when damage exceeds data.damage_budget.
        """
        size = self._chunk_size()
        per_batch = self.local_size // size
        pieces = self._chunks(start_step, size, per_batch)
        for chunk in pieces:
            chunks = [chunk, *(next(pieces) for _ in range(per_batch - 1))]
            self._account([event for c in chunks for event in c.pop("events")])
            yield {
                k: np.concatenate([c[k] for c in chunks]) if per_batch > 1 else chunk[k]
                for k in chunk
            }

    def _account(self, events: list) -> None:
        for kind, reason, where in events:
            if kind == "damage":
                self.log.add(Damage(reason, where))
            else:
                self.clipped[reason] += 1
        self.log.check()

    def _chunk_size(self) -> int:
        """The largest divisor of the local batch that is at most 32 and leaves every thread some
        work."""
        most = max(
            1, min(_CHUNK, self.local_size // max(1, self.spec.workers or self.spec.threads))
        )
        return next(size for size in range(most, 0, -1) if self.local_size % size == 0)

    def _chunks(self, start_step: int, size: int, per_batch: int) -> Iterator[dict[str, Any]]:
        import grain  # imports jax, which data tools without training do not need

        load = functools.partial(
            _load,
            self._reader,
            self.batch_size,
            self.offset + self.process_index * self.local_size,
            size,
            per_batch,
        )
        chunks = grain.MapDataset.range(start_step * per_batch, _END).map(load)
        ahead = max(self.spec.prefetch * per_batch, self.spec.threads)
        options = grain.ReadOptions(num_threads=self.spec.threads, prefetch_buffer_size=ahead)
        if self.spec.workers:
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        dataset = chunks.to_iter_dataset(options)
        if self.spec.workers:
            if not flags.FLAGS.is_parsed():  # grain reads its own flags when it starts processes
                flags.FLAGS.mark_as_parsed()
            buffer = max(1, ahead // self.spec.workers)
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(self.spec.workers, buffer))
        return _watched(iter(dataset), self.spec.workers)


def _watched(chunks: Iterator[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """Passes the chunks on; a loader process that was killed is told as what it is."""
    try:
        yield from chunks
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        code = str(error).partition("exit code ")[2].split(".")[0]
        raise RunError(
            f"a data loader process (one of data.workers={workers}) died with exit code {code}; "
            "-9 is the system's answer to too little memory: fewer data.workers or data.prefetch"
        ) from error


def _load(
    reader: RowReader, batch_size: int, offset: int, size: int, per_batch: int, number: int
) -> dict:
    """Chunk `number` of this process: a contiguous piece of its slice of the global batch."""
    tune_pillow()
    step, piece = divmod(int(number), per_batch)
    return reader.chunk(step, step * batch_size + offset + piece * size, size)

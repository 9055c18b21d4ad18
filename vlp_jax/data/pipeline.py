"""Batches for training and evaluation.

Grain runs the reading threads or processes; the order and all host randomness are pure functions of
(seed, epoch, position) from `order`. The file exists so that the step alone restores the data
position, exactly, on any number of processes.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import flags

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.caption import CHOICES, CaptionSpec, choose_caption
from vlp_jax.data.damage import Damage, DamagedSample, DamageLog
from vlp_jax.data.decode import decode_framed, tune_pillow
from vlp_jax.data.evaluation import eval_batches as eval_batches
from vlp_jax.data.framing import Framing
from vlp_jax.data.labels import open_classes
from vlp_jax.data.lengths import Buckets, LengthCounter, open_buckets
from vlp_jax.data.mixture import open_mixture
from vlp_jax.data.order import example_rng, replacement
from vlp_jax.data.source import check_captions, check_key, label_of

_log = logging.getLogger(__name__)
MAX_ATTEMPTS = 32
_CHUNK = 32  # rows that one worker call prepares
_END = 2**40  # positions; an epoch of a billion examples fits a thousand times


@dataclass(frozen=True)
class DataSpec:
    """The `data` section of a config, with the defaults of every key that is left out."""

    path: str = ""
    holdout: float = 0.0
    weights: tuple[float, ...] = ()
    crop: str = "random"
    scale: tuple[float, float] = (0.9, 1.0)
    resample: str = "bicubic"
    alpha: str = "white"
    fill: int = 255
    caption: str = "random"
    templates: tuple[str, ...] = ()
    word_dropout: float = 0.0
    buckets: tuple[int, ...] = ()
    label: str = ""
    workers: int = 0
    threads: int = 4
    prefetch: int = 8
    shuffle: str = "global"
    damage_budget: float = 1e-3

    @classmethod
    def from_config(cls, data: Mapping[str, Any]) -> "DataSpec":
        """Reads a ConfigDict or dict; `image.crop`, `image.scale` and the like are nested."""
        flat = {**dict(data), **dict(data.get("image") or {})}
        found = {
            name: flat[name] for name in cls.__dataclass_fields__ if flat.get(name) is not None
        }
        for name in ("weights", "scale", "templates", "buckets"):
            found[name] = tuple(found.get(name, getattr(cls, name)))
        return cls(**found)

    @property
    def captions(self) -> CaptionSpec:
        """How captions are chosen and changed."""
        return CaptionSpec(self.caption, self.templates, self.word_dropout)

    @functools.cached_property
    def framing(self) -> Framing:
        """How pictures are cut, resized and laid on a ground."""
        return Framing(self.crop, self.scale, self.resample, self.alpha, self.fill)


@dataclass
class RowReader:
    """Prepares rows of a batch; picklable, so that it runs in grain's threads or processes."""

    source: Any
    order: Any
    spec: DataSpec
    tokenizer: Any
    image_size: int
    seed: int
    buckets: Buckets | None = None
    classes: Sequence[str | int] = ()

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
        spec, row = self.spec, {}
        example = self.source[index]
        if self.tokenizer is not None:
            clipped: Counter = Counter()
            row["text"] = choose_caption(example, spec.captions, stream, clipped)
            events += [("clipped", reason, example["key"]) for reason in clipped]
            if limit and self.tokenizer.length(row["text"]) > limit:
                where = f"{self.source.where(index)} (the next start counts it anew)"
                raise DamagedSample("caption_changed", where)
        if spec.label:
            row["label"] = label_of(example, spec.label, self.classes)
        if "image" not in example:
            raise DamagedSample("no_image")
        row["image"], row["image_aspect"] = decode_framed(
            example["image"], self.image_size, spec.framing, stream("box")
        )
        return row

    def chunk(self, step: int, start: int, count: int) -> dict[str, Any]:
        """Rows at stream positions [start, start + count) of a step, stacked, with their events."""
        events: list = []
        positions = range(start, start + count)
        indices = self.order.index(np.asarray(positions)).tolist()
        limit = self.buckets.at(step) if self.buckets else None
        rows = [self.fill(p, i, limit, events) for p, i in zip(positions, indices, strict=True)]
        return {**stack(rows, self.tokenizer, limit), "events": events}


def stack(
    rows: list[dict[str, Any]], tokenizer: Any, limit: int | None = None
) -> dict[str, np.ndarray]:
    """Rows -> image uint8[b, S, S, 3], image_aspect float32[b], text int32[b, L or limit], label
    int32[b], as far as present."""
    batch = {}
    if "image" in rows[0]:
        batch["image"] = np.stack([row["image"] for row in rows])
    if "image_aspect" in rows[0]:
        batch["image_aspect"] = np.asarray([row["image_aspect"] for row in rows], np.float32)
    if "text" in rows[0]:
        batch["text"] = np.asarray(tokenizer([row["text"] for row in rows])[:, :limit], np.int32)
    if "label" in rows[0]:
        batch["label"] = np.asarray([row["label"] for row in rows], np.int32)
    return batch


class TrainPipeline:
    """Endless training batches of the examples that `data.path` names.

    Row r of step s is position s x batch_size + offset + r of the stream; every example comes once
    per epoch (batches run across epoch borders). The offset is that of a run whose batch size was
    changed on the way (train/workdir.py), else 0. Raises UserError before any work for a bad path,
    an unknown setting or a batch that the processes cannot share; warns of a batch above the data.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        *,
        tokenizer: Any,
        batch_size: int,
        image_size: int,
        seed: int,
        num_classes: int = 0,
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
        self.source, self.order = open_mixture(
            spec.path, spec.weights, seed, spec.shuffle, spec.holdout
        )
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
        if tokenizer is not None and spec.caption not in CHOICES:
            check_key(self.source, spec.caption, "data.caption")
        elif tokenizer is not None:
            check_captions(self.source, spec.path)
        self.classes: Sequence[str | int] = ()
        if spec.label:
            check_key(self.source, spec.label, "data.label")
            self.classes = open_classes(self.source, spec.label, num_classes)
        self.clipped: Counter = Counter()
        self.buckets = None
        if tokenizer is not None and spec.buckets:
            counter = LengthCounter(self.source, tokenizer, spec.captions)
            self.buckets = open_buckets(counter, spec.buckets, self.order, batch_size, offset)
        parts = (self.source, self.order, spec, tokenizer, image_size, seed)
        self._reader = RowReader(*parts, self.buckets, self.classes)
        self._reader.chunk(0, 0, 1)  # a mistake in the settings shows here, not in a worker

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

        Yields image uint8[b, S, S, 3], image_aspect float32[b] (its width over height before),
        text int32[b, L] (with a tokenizer; L is the step's bucket under data.buckets) and label
        int32[b] (with data.label); b = batch_size / process_count. Raises RunError when damage
        exceeds data.damage_budget.
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

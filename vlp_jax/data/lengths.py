"""How long each caption can be in tokens, and the length that a global batch is cut to.

A causal text tower never sees what follows a text's end, so a batch may run at the shortest of a
few lengths that holds its captions. The file exists so that every process knows that length from
the step alone: all captions are counted once, with the run's own tokenizer, and the counts kept.
"""

import glob
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data import kept
from vlp_jax.data.caption import CaptionSpec
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.source import digest

_log = logging.getLogger(__name__)
_CHUNK = 4096  # examples that one call counts
_PROCESSES = 2**16  # examples; with fewer, starting processes costs more than they save
_KEPT = 10_000  # examples; counts of smaller sets are not worth a file
_REPORT = 10.0  # seconds between two lines of progress


@dataclass(frozen=True)
class LengthCounter:
    """The longest row that each example can give: over its captions and the templates."""

    source: Any
    tokenizer: Any
    spec: CaptionSpec

    def length(self, index: int) -> int:
        """Tokens of the longest text of one example, start and end included; 0 without one."""
        try:
            texts = self.spec.texts(self.source.metadata(index))
        except DamagedSample:
            return 0  # replaced when it is met
        shown = (t.replace("{c}", c) for c in texts for t in self.spec.templates or ("{c}",))
        return max(map(self.tokenizer.length, shown), default=0)

    def chunk(self, start: int) -> np.ndarray:
        """int16 lengths of at most 4,096 examples from `start` on."""
        rows = range(start, min(start + _CHUNK, len(self.source)))
        return np.asarray([self.length(i) for i in rows], np.int16)


_worker: list[LengthCounter] = []  # this process's counter, sent once and not with every chunk


def _start(counter: LengthCounter) -> None:
    _worker.append(counter)


def _chunk(start: int) -> np.ndarray:
    return _worker[0].chunk(start)


def _chunks(counter: LengthCounter) -> Iterator[np.ndarray]:
    starts = range(0, len(counter.source), _CHUNK)
    if len(counter.source) < _PROCESSES:
        yield from map(counter.chunk, starts)
        return
    context = multiprocessing.get_context("spawn")  # a fork of JAX's threads may hang
    count = min(os.cpu_count() or 1, len(starts))
    with ProcessPoolExecutor(count, context, _start, (counter,)) as pool:
        yield from pool.map(_chunk, starts)


def count_lengths(counter: LengthCounter) -> np.ndarray:
    """int16[N]: `counter.length` of every example, with a line of progress every ten seconds."""
    found, total, shown = [], len(counter.source), time.monotonic()
    for number, lengths in enumerate(_chunks(counter)):
        found.append(lengths)
        if time.monotonic() - shown > _REPORT:
            shown = time.monotonic()
            share = min(1.0, (number + 1) * _CHUNK / total)
            _log.info(
                "counting the tokens of %s captions: %.0f %% (once; data.buckets=() goes without)",
                *(f"{total:,}", 100 * share),
            )
    return np.concatenate(found)


def load_lengths(counter: LengthCounter) -> np.ndarray:
    """int16[N] of every example, counted now or read from the cache folder (memory-mapped).

    The file's name is a digest of the data's listing, the tokenizer and the choice of captions, so
    another of these is counted anew, as is all by every run where the folder cannot be written.
    Where a listing does not cover the captions, their source's `stamp` is in the name too; no stamp
    covers further files, whose lengths are not kept.
    """
    source, total = counter.source, len(counter.source)
    if total < _KEPT or counter.spec.member:
        return count_lengths(counter)
    parts = (source.fingerprint, counter.tokenizer.fingerprint, counter.spec.choice)
    name = os.path.join(kept.folder("lengths"), digest((*parts, *counter.spec.templates)))
    stamp = getattr(source, "stamp", "")
    path = f"{name}-{stamp}.npy" if stamp else f"{name}.npy"
    lengths = kept.read(path, total, np.int16)
    if lengths is not None:
        return lengths
    if stamp and (old := glob.glob(f"{glob.escape(name)}-*.npy")):
        _log.info("captions changed since their tokens were counted (%s): counting anew", old[0])
    lengths = count_lengths(counter)
    kept.save(lengths, path, "caption lengths")
    return lengths


def check_buckets(buckets: Sequence[int], context_length: int) -> tuple[int, ...]:
    """`data.buckets` in rising order, cut at the context length, which is always among them.

    Example: (64, 16) with a context of 32 gives (16, 32). Raises UserError for what is no length.
    """
    wrong = [b for b in buckets if isinstance(b, bool) or not isinstance(b, int) or b < 1]
    if wrong:
        raise UserError(f"data.buckets={tuple(buckets)}: {wrong[0]!r} is no positive whole number")
    return tuple(sorted({*(b for b in buckets if b < context_length), context_length}))


class Buckets:
    """The length of every step's texts: the shortest bucket that holds its whole global batch.

    A pure function of the step, so all processes agree without a word.

    Args:
      lengths: int16[N], longest text of each example, 0 where one is lacking.
      buckets: rising lengths; the last holds everything.
      order: positions to indices (data/mixture.py).
      batch_size: of the global batch.
      offset: position of the first example of step 0 (data/pipeline.py).
    """

    def __init__(
        self,
        lengths: np.ndarray,
        buckets: tuple[int, ...],
        order: Any,
        batch_size: int,
        offset: int = 0,
    ):
        self.lengths, self.buckets = lengths, buckets
        self._order, self._batch_size, self._offset = order, batch_size, offset
        self._known: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # a memory map would travel to worker processes as its whole content
        path = getattr(self.lengths, "filename", None)
        return {**self.__dict__, "lengths": path or self.lengths, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
        if not isinstance(self.lengths, np.ndarray):
            self.lengths = np.load(self.lengths, mmap_mode="r", allow_pickle=False)

    def at(self, step: int) -> int:
        """Columns of the texts of a step's global batch."""
        with self._lock:  # the first thread of a step computes, the others wait for it
            if step not in self._known:
                if len(self._known) > 1000:
                    self._known.clear()
                first = step * self._batch_size + self._offset
                positions = first + np.arange(self._batch_size)
                longest = self.lengths[self._order.index(positions)].max()
                self._known[step] = next(b for b in self.buckets if b >= longest)
            return self._known[step]

    def fitting(self, index: int, limit: int) -> int:
        """The first example from `index` on, around the end, whose texts fit `limit` columns."""
        total = len(self.lengths)
        for step in range(total):
            if 0 < self.lengths[(index + step) % total] <= limit:
                return (index + step) % total
        raise RunError(f"no caption of the data fits {limit} tokens")


def open_buckets(
    counters: Sequence[LengthCounter],
    buckets: Sequence[int],
    order: Any,
    batch_size: int,
    offset: int = 0,
) -> Buckets | None:
    """The buckets of a run, or None where nothing can be cut; counters: of the texts that are cut,
    all to one length.

    Raises:
      UserError: `buckets` holds something else than positive whole numbers.
    """
    if not counters:
        return None
    checked = check_buckets(buckets, max(c.tokenizer.context_length for c in counters))
    if len(checked) == 1:
        return None
    lengths = load_lengths(counters[0])
    for counter in counters[1:]:
        more = load_lengths(counter)
        lengths = np.maximum(lengths, more) * ((lengths > 0) & (more > 0))
    return Buckets(lengths, checked, order, batch_size, offset)

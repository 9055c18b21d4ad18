"""Evaluation batches: in order, padded to one shape, masked by index.

The file exists so that an evaluator sees every example exactly once on any number of processes,
while the compiled step sees one shape only.
"""

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import batch_spec
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.fields.base import Reader, read_row, stack
from vlp_jax.data.order import example_rng
from vlp_jax.data.source import Source

_log = logging.getLogger(__name__)


class EvalReader:
    """Reads one example for evaluation."""

    def __init__(self, source: Source, readers: Mapping[str, Reader]):
        self.source, self.readers = source, readers

    def __call__(self, i: int) -> dict[str, Any] | DamagedSample:
        """The row of example i, or the damage that it has."""
        stream = functools.partial(example_rng, 0, 0, i)
        try:
            found = read_row(self.readers, self.source, i, stream)
            return {reader.name: value for reader, value, _ in found}
        except DamagedSample as damage:
            return DamagedSample(damage.reason, damage.where or self.source.where(i))


def eval_batches(
    source: Source,
    readers: Mapping[str, Reader],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    dropped: Counter | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example of `source` once, in order.

    Args:
        readers: of data/fields/base.py, made with train=False. batch_size: global; each process
        yields b = batch_size / process_count rows of every global batch.

    Yields the arrays of the fields and 'index' int32[b], the row's number in the source, -1 for
    padding (zeros) and for damaged examples, which are logged and counted by reason in `dropped`.
    Raises UserError.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size={batch_size} cannot be shared by {process_count} processes")
    reader = EvalReader(source, readers)
    return _batches(reader, batch_size, (process_index, process_count), threads, dropped)


def _batches(
    reader: EvalReader,
    batch_size: int,
    process: tuple[int, int],
    threads: int,
    dropped: Counter | None,
):
    local = batch_size // process[1]
    starts = [s + process[0] * local for s in range(0, len(reader.source), batch_size)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead: list = []
        for start in itertools.chain(starts, [None, None]):  # two batches are read ahead
            if start is not None:
                rows = range(start, min(start + local, len(reader.source)))
                ahead.append((start, [pool.submit(reader, i) for i in rows]))
            if ahead and (start is None or len(ahead) > 2):
                first, futures = ahead.pop(0)
                yield _pad(reader, first, [f.result() for f in futures], local, dropped)


def _pad(
    reader: EvalReader, start: int, rows: list, local: int, dropped: Counter | None
) -> dict[str, np.ndarray]:
    index = np.full(local, -1, np.int32)
    spec = batch_spec({name: one.field for name, one in reader.readers.items()}, local)
    batch = {name: np.zeros(array.shape, array.dtype) for name, array in spec.items()}
    for at, row in enumerate(rows):
        if isinstance(row, DamagedSample):
            _log.warning("left out of the evaluation: %s", row)
            if dropped is not None:
                dropped[row.reason] += 1
            continue
        index[at] = start + at
    sound = np.flatnonzero(index >= 0)
    if sound.size:
        for name, array in stack(reader.readers, [rows[at] for at in sound]).items():
            batch[name][sound] = array
    return {**batch, "index": index}

"""Evaluation batches: in order, padded to one shape, masked by index.

The file exists so that an evaluator sees every example exactly once on any number of processes,
while the compiled step sees one shape only.
"""

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.caption import CaptionSpec, choose_caption
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import decode_framed
from vlp_jax.data.framing import Framing
from vlp_jax.data.order import example_rng
from vlp_jax.data.source import label_of

FIELDS = ("image", "text", "label")
_log = logging.getLogger(__name__)


class EvalReader:
    """Reads one example for evaluation: centre crop (or what the options say), first
    caption (or `caption`)."""

    def __init__(
        self, source: Any, fields: Sequence[str], image_size: int, tokenizer: Any, options: dict
    ):
        for field in fields:
            if field not in FIELDS:
                raise UserError(f"evaluation field {field!r} is unknown" + nearest(field, FIELDS))
        self.source, self.fields, self.size, self.tokenizer = source, fields, image_size, tokenizer
        self.framing = Framing.of(options)
        self.label = options.get("label", "label")
        templates = tuple(options.get("templates", ()))
        self.captions = CaptionSpec(options.get("caption", "first"), templates)

    def __call__(self, i: int) -> dict[str, Any] | DamagedSample:
        """The row of example i, or the damage that it has."""
        row: dict[str, Any] = {}
        try:
            example = self.source[i] if "image" in self.fields else self.source.metadata(i)
            if "image" in self.fields:
                if "image" not in example:
                    raise DamagedSample("no_image")
                row["image"], _ = decode_framed(example["image"], self.size, self.framing)
            if "text" in self.fields:
                stream = functools.partial(example_rng, 0, 0, i)
                row["text"] = choose_caption(example, self.captions, stream)
            if "label" in self.fields:
                row["label"] = label_of(example, self.label)
        except DamagedSample as damage:
            return DamagedSample(damage.reason, damage.where or self.source.where(i))
        return row


def eval_batches(
    source: Any,
    *,
    fields: Sequence[str] = ("image",),
    batch_size: int,
    image_size: int = 0,
    tokenizer: Any = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    dropped: Counter | None = None,
    **options: Any,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example of `source` once, in order.

    Args:
        fields: of 'image' uint8[b, S, S, 3], 'text' int32[b, L], 'label' int32[b]. batch_size:
        global; each process yields b = batch_size / process_count rows of every global batch.
        options: fields of Framing, caption ('first'), templates, label ('label').

    Yields the fields and 'index' int32[b], the row's number in the source, -1 for padding (zeros)
    and for damaged examples, which are logged and counted by reason in `dropped`. Raises UserError.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size={batch_size} cannot be shared by {process_count} processes")
    reader = EvalReader(source, fields, image_size, tokenizer, options)
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
    batch: dict[str, np.ndarray] = {}
    if "image" in reader.fields:
        batch["image"] = np.zeros((local, reader.size, reader.size, 3), np.uint8)
    if "label" in reader.fields:
        batch["label"] = np.zeros(local, np.int32)
    texts = [""] * local
    for at, row in enumerate(rows):
        if isinstance(row, DamagedSample):
            _log.warning("left out of the evaluation: %s", row)
            if dropped is not None:
                dropped[row.reason] += 1
            continue
        index[at] = start + at
        texts[at] = row.get("text", "")
        for field in ("image", "label"):
            if field in row:
                batch[field][at] = row[field]
    if "text" in reader.fields:
        batch["text"] = np.asarray(reader.tokenizer(texts), np.int32)
        batch["text"][index < 0] = 0
    return {**batch, "index": index}

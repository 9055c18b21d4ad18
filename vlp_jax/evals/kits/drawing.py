"""Pictures that a model draws for an evaluation: of which words or classes, and in what order.

The file exists so that any method with a function `generate_image` is asked by one rule: the
samples of a data set in turn, each picture by the random key of its own number.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.fields import Field, Label, Text
from vlp_jax.core.types import HostBatch
from vlp_jax.data.source import Source
from vlp_jax.data.text.rows import text_rows
from vlp_jax.evals.base import EvalContext, EvalFn, embed_all
from vlp_jax.evals.kits.rerank import pair_batches
from vlp_jax.evals.kits.samples import class_ids, read_captions, read_values

DRAW = "generate_image"
BLOCK = 4096  # pictures that are held at a time


@dataclasses.dataclass(frozen=True)
class Words:
    """Where a data set says what is to be drawn: JSON key of captions ('' = the sample's), what is
    put before each, JSON key of classes ('' = none), and {value: number} of the model's classes.
    """

    caption: str = ""
    prefix: str = ""
    label: str = ""
    classes: Mapping[Any, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What N pictures are drawn of.

    Attributes:
      count: N.
      arrays: {array: (rows [M, ...], int[N], the row of each picture)}; {} without conditions.
      texts: the prompt of each, () where the model reads none.
      labels: the class of each, a word or a number, () without.
    """

    count: int
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]
    texts: Sequence[str] = ()
    labels: Sequence[Any] = ()


def conditions(reads: Mapping[str, Field]) -> dict[str, Field]:
    """What a function must be given to draw.

    Raises:
      UserError: something else than texts and classes.
    """
    needed = {name: field for name, field in reads.items() if not field.optional}
    for name, field in needed.items():
        if not isinstance(field, Text | Label):
            kind = type(field).__name__
            raise UserError(f"{DRAW} reads {name!r}, a {kind}; here it is given words and classes")
    return needed


def ask(
    source: Source, reads: Mapping[str, Field], words: Words, count: int, context: EvalContext
) -> Asked:
    """`count` pictures (0: as many as there are samples) of the samples in turn, those left out
    that do not say what is needed.

    Raises:
      UserError: no sample says it, or a class that the model has not.
    """
    needed = conditions(reads)
    spoken = any(isinstance(field, Text) for field in needed.values())
    texts = _texts(source, words) if spoken else [""] * len(source)
    labels = read_values(source, words.label) if words.label else [None] * len(source)
    good = [
        i
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
        if (text or not spoken) and (label is not None or not words.label)
    ]
    if not good:
        raise UserError(f"none of {len(source)} samples says what to draw")
    which = np.arange(count or len(good)) % len(good)
    texts, labels = [texts[i] for i in good], [labels[i] for i in good]
    arrays: dict[str, np.ndarray] = {}
    for name, field in needed.items():
        if isinstance(field, Text):
            usual = context.tokenizer if field.tokenizer == Text.tokenizer else None
            tokenizer = context.tokenizers.get(name, usual)
            if tokenizer is None:
                raise UserError(f"{DRAW} reads {name!r}, but the run has no tokenizer for it")
            arrays |= text_rows(tokenizer, field, name, texts)
        else:
            arrays[name] = class_ids(labels, dict(words.classes), where="path")
    given = {name: (rows, which) for name, rows in arrays.items()}
    return Asked(
        len(which),
        given,
        [texts[i] for i in which] if spoken else (),
        [labels[i] for i in which] if words.label else (),
    )


def _texts(source: Source, words: Words) -> list[str]:
    found = read_captions(source, words.caption, first=1)
    return [words.prefix + texts[0] if texts else "" for texts in found]


def draw(
    fn: EvalFn, asked: Asked, context: EvalContext, how: Mapping[str, Any]
) -> Iterator[np.ndarray]:
    """Draws the pictures: blocks uint8[n, H, W, 3] in order.

    fn: gives {"image": uint8[B, H, W, 3], or float in [-1, 1]}, or that array alone. how: its
    options. Raises RunError for a picture that is not finite.
    """
    size, count = context.batch_size, asked.count
    several = max(1, BLOCK // size)
    batches = pair_batches(asked.arrays, count, context)
    for start in range(0, count, several * size):

        def run(batch: HostBatch, start: int = start) -> tuple[np.ndarray, np.ndarray]:
            out, index = fn(batch, how=how)
            index = np.asarray(index)
            pictures = out["image"] if isinstance(out, Mapping) else out
            return pixels(np.asarray(pictures)), np.where(index < 0, -1, index - start)

        some = itertools.islice(batches, several)
        yield embed_all(run, some, min(count - start, several * size))


def pixels(pictures: np.ndarray) -> np.ndarray:
    """uint8 as it is; float in [-1, 1], cut there, to uint8 by rounding. Raises RunError for one
    that is not finite."""
    if pictures.dtype == np.uint8:
        return pictures
    if not np.isfinite(pictures).all():
        raise RunError(f"{DRAW} gives numbers that are not finite")
    return np.uint8(np.round((np.clip(pictures.astype(np.float32), -1, 1) + 1) * 127.5))

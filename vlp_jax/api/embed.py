"""Pictures and texts to rows of numbers, batch by batch, by a method's own functions.

The file exists as the one way from inputs to embeddings: the proof of a converted folder, the
commands and a notebook go through it.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from vlp_jax.api.placement import Run, fill, runner
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Vars
from vlp_jax.core.schema import Size, check
from vlp_jax.core.types import Extra, Params
from vlp_jax.core.vectors import as_sets, unit
from vlp_jax.methods.base import Method

T = TypeVar("T")
SIDES = ("image", "text")
_unit = jax.jit(unit)


@dataclasses.dataclass(frozen=True)
class Batching:
    """How inputs are taken.

    Attributes:
      size: rows per call; the last batch is filled up, so that one program serves all.
      threads: that decode pictures.
      told: called with the number of inputs that a batch has finished.

    Raises:
      UserError: a size or threads that is no positive whole number.
    """

    size: Size = 32
    threads: Size = os.cpu_count() or 1
    told: Callable[[int], None] = lambda count: None

    def __post_init__(self):
        check(Batching, {"size": self.size, "threads": self.threads}, "Batching")


def sides(method: Method) -> dict[str, str]:
    """{side: name of its function}: `image` and `text` of a joint space; of a method without one
    `image` alone, its features.
    """
    named = {side: f"embed_{side}" for side in SIDES}
    offered = method.functions()
    found = {side: name for side, name in named.items() if name in offered}
    return found or {"image": "features"}


def embedders(
    method: Method, params: Params, extra: Extra, mesh: Mesh | None = None
) -> dict[str, Run]:
    """{side: f(batch) -> float32[B, E], or [B, n, E], of unit norm}, compiled once per shape of a
    batch; features are divided by their norm.
    """

    def make(name: str) -> Run:
        run = runner(method, name, Vars(params, extra), mesh)
        return run if name != "features" else lambda batch: np.asarray(_unit(run(batch)))

    return {side: make(name) for side, name in sides(method).items()}


def embed_pictures(
    fn: Run, pictures: Iterable[T], decode: Callable[[T], np.ndarray | None], how: Batching
) -> tuple[list[np.ndarray], list[T]]:
    """Rows of pictures in batches, and the pictures that are among them: not those of which
    `decode`, which gives uint8[S, S, 3], gives None. One batch is decoded ahead.
    """
    rows, kept, size = [], [], 0
    with ThreadPoolExecutor(how.threads) as pool:
        for some, decoded in ahead(pool, decode, chunks(pictures, how.size)):
            size = size or len(some)
            good = [i for i, picture in enumerate(decoded) if picture is not None]
            kept += [some[i] for i in good]
            if good:
                pictures = np.stack([decoded[i] for i in good])
                rows.append(_padded(fn, {"image": pictures}, size))
            how.told(len(some))
    return rows, kept


def embed_texts(
    fn: Run,
    texts: Iterable[str],
    arrays: Callable[[list[str]], dict[str, np.ndarray]],
    how: Batching,
) -> list[np.ndarray]:
    """Rows of texts, in batches; arrays: texts -> the batch that they are."""
    rows, size = [], 0
    for some in chunks(texts, how.size):
        size = size or len(some)
        rows.append(_padded(fn, arrays(some), size))
        how.told(len(some))
    return rows


def joined(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """float32[N, E] of batches of rows (or [N, n, E]); without any E is `width`."""
    return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)


def check_scale(scale: float, flag: str = "scale") -> float:
    """The scale itself. Raises UserError, naming the flag, for what is no positive number."""
    number = isinstance(scale, (Real, np.ndarray, jax.Array)) and np.ndim(scale) == 0
    if not number or not 0 < scale < float("inf"):
        said = f"{scale:g}" if isinstance(scale, Real) else repr(scale)
        raise UserError(f"{flag}={said}: must be a positive number")
    return float(scale)


def shares(image: np.ndarray, text: np.ndarray, scale: float) -> np.ndarray:
    """float32[N, M], rows that add up to 1: the softmax over texts of scale * cosine.

    image: float32[N, E], or of sets of vectors [N, n, E], of which the nearest counts; text:
    float32[M, E]; both of unit norm.
    """
    logits = scale * (as_sets(image.astype(np.float64)) @ text.astype(np.float64).T).max(1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    source = iter(items)
    while some := list(itertools.islice(source, size)):
        yield some


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], Any], chunks: Iterable[list[T]]
) -> Iterator[tuple[list[T], list[Any]]]:
    """(a chunk, work of each of its items) while the next chunk is being worked on."""
    waiting: list[tuple[list[T], list[Any]]] = []
    for some in itertools.chain(chunks, [None]):
        ready, waiting = waiting, []
        if some is not None:
            waiting = [(some, [pool.submit(work, item) for item in some])]
        for chunk, futures in ready:
            yield chunk, [future.result() for future in futures]


def _padded(fn: Run, batch: dict[str, np.ndarray], size: int) -> np.ndarray:
    """Runs a batch filled up with its first row, so that one program serves every batch."""
    count = len(next(iter(batch.values())))
    return fn({name: fill(rows, size) for name, rows in batch.items()})[:count]

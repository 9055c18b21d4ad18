"""The contract of every evaluator, and the one loop that turns batches into an array of embeddings.

Protocols: CLIP (arXiv:2103.00020) sections 3.1 and 3.2 and the sheets they follow in each module
here. The file exists so that a new method gets every evaluator it can serve, and a new evaluator
every method: an evaluator names the functions it `requires`, is handed exactly those, and returns a
`Result`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core import dispatch
from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.fields import Field
from vlp_jax.core.schema import build
from vlp_jax.core.types import HostBatch
from vlp_jax.data.framing import Framing
from vlp_jax.data.source import Source

Rows = Any  # a tree of arrays whose first axis is the rows
EvalFn = Callable[..., tuple[Rows, np.ndarray]]  # host-local batch -> (rows, int32[B] index)


@dataclasses.dataclass(frozen=True)
class EvalContext:
    """What an evaluator must know about the run: its tokenizer, its picture size, its hosts.

    `batch_size` counts rows over all hosts; a host-local batch has `batch_size // process_count`
    rows. `framing` is that of the model's own preprocessing; `masked`: its texts come with a mask;
    `member`: a further file of the sample is its picture. `tokenizers`: {text field: its tokenizer}
    where there are several. `network`: f(path) -> an evals/kits/networks.py Network, where
    other checkpoints can be asked.
    """

    tokenizer: Callable[[Sequence[str]], np.ndarray] | None
    image_size: int
    batch_size: int
    process_index: int = 0
    process_count: int = 1
    framing: Framing = dataclasses.field(default_factory=Framing)
    masked: bool = False
    member: str = ""
    tokenizers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: Callable[[str], Any] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.process_count:
            share = f"shared by {self.process_count} processes"
            raise UserError(f"evaluation batch_size={self.batch_size} cannot be {share}")


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of an evaluator.

    metrics: name -> number, the ones to log; fractions in [0, 1] unless the name says otherwise.
    tables:  name -> rows (dicts with equal keys), for people.
    figures: name -> what can be drawn, as data (evals/kits/figures.py).
    details: `protocol`, the settings, and arrays that the numbers come from.
    """

    metrics: dict[str, float]
    tables: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings that the numbers were measured under."""
        return self.details.get("protocol", {})


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Base class of all evaluators: a frozen dataclass whose fields are its config keys.

    Attributes:
      context, options, reads: no config keys: what it knows of the run, {function: its options},
        and {function: its fields}, which say under what names it is given texts.
      path: data set that is measured.
      how: {KEY: VALUE}, options of the functions that it requires.
    """

    context: EvalContext
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, Mapping[str, Field]] = dataclasses.field(default_factory=dict)
    path: str | Source = ""
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of the method's functions that it calls."""
        raise NotImplementedError(type(self).__name__)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Calls the functions that it requires, by name, on its data sets.

        Raises:
          UserError: its data sets lack what it asks for.
        """
        raise NotImplementedError(type(self).__name__)

    def hows(self) -> tuple[Mapping[str, Any], ...]:
        """All options that it will run its functions under."""
        return (self.how,)

    def sets(self) -> dict[str, str | Source]:
        """Its data sets by config key, '' where there is none: all but `path` are learned from."""
        return {"path": self.path}

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """Looks at its data sets, opened, before any training.

        Raises:
          UserError: one that cannot serve; the message starts with `where`, the evaluator's
            section.
        """
        del sources, where

    def __call__(self, fns: Mapping[str, EvalFn]) -> Result:
        """`measure` with the functions that it requires, under its options.

        Raises:
          UserError: the method offers less than that.
        """
        given = {}
        for name in self.requires:
            if name not in fns:
                kind = type(self).__name__
                raise UserError(f"evaluator {kind} needs {name!r}; the method offers {sorted(fns)}")
            how = self.options.get(name)
            given[name] = fns[name] if how is None else functools.partial(fns[name], how=how)
        return self.measure(given)


@dataclasses.dataclass(frozen=True)
class Learner(Evaluator):
    """An evaluator with a data set that it learns from.

    Attributes:
      train: that data set.
    """

    train: str | Source = ""

    def sets(self) -> dict[str, str | Source]:
        """train and path."""
        return {"train": self.train, "path": self.path}


def make_evaluator(name: str, cfg: Mapping[str, Any], context: EvalContext) -> Evaluator:
    """Builds the evaluator of the file evals/NAME.py, importing it only now.

    Raises UserError, with the nearest valid name, for an unknown evaluator or key, or a value of
    another type.
    """
    valid = dispatch.names("evals")
    if name not in valid:
        raise UserError(f"unknown evaluator {name!r}" + nearest(name, valid))
    found = dispatch.find("evals", name, Evaluator, f"evaluator {name!r}")
    return build(found, cfg, name, context=context, options={}, reads={})


def embed_some(fn: EvalFn, batches: Iterable[HostBatch], n: int) -> tuple[Rows, np.ndarray]:
    """Runs `fn` over padded batches and puts every row where its index says.

    fn: host-local batch -> (rows, index int32[B]); rows of index -1 are left out. Returns rows of
    the same tree and dtypes, [n, ...] (zeros where no row came), and bool[n], which rows came.
    Rows [2, 0, -1] and [1] fill an array of n = 3.
    Raises RunError for a row out of range or not finite, and when no row came.
    """
    out, seen = None, np.zeros(n, bool)
    for batch in batches:
        rows, index = fn(batch)
        rows, index = jax.tree.map(np.asarray, rows), np.asarray(index)
        if index.max(initial=-1) >= n:
            raise RunError(f"an evaluation batch holds row {index.max()} of {n}")
        keep = index >= 0
        if out is None:
            out = jax.tree.map(lambda leaf: np.zeros((n, *leaf.shape[1:]), leaf.dtype), rows)
        for whole, leaf in zip(jax.tree.leaves(out), jax.tree.leaves(rows), strict=True):
            whole[index[keep]] = leaf[keep]
        seen[index[keep]] = True
    if out is None or not seen.any():
        raise RunError(f"none of {n} rows could be embedded")
    bad = np.flatnonzero(~_finite(out, n))
    if bad.size:
        raise RunError(f"{bad.size} of {n} embeddings are not finite, first {bad[:3].tolist()}")
    return out, seen


def _finite(rows: Rows, n: int) -> np.ndarray:
    """bool[n]: whether all numbers of a row are."""
    found = np.ones(n, bool)
    for leaf in jax.tree.leaves(rows):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            found &= np.isfinite(leaf).reshape(n, -1).all(axis=1)
    return found


def embed_all(fn: EvalFn, batches: Iterable[HostBatch], n: int) -> Rows:
    """As `embed_some`, but every row must come: [n, ...]. Raises RunError where one does not."""
    out, seen = embed_some(fn, batches, n)
    if not seen.all():
        missing = np.flatnonzero(~seen)
        raise RunError(
            f"{missing.size} of {n} rows were never embedded, first {missing[:3].tolist()}"
        )
    return out


def text_batches(texts: Sequence[str], context: EvalContext) -> Iterator[HostBatch]:
    """Tokenised texts as host-local padded batches {'text': int32[b, L], 'index': int32[b]}, with
    'text_mask': bool[b, L] where the model's texts have one.

    Worked example: 5 texts, batch_size 4, 2 hosts: host 1 gets index [2, 3], then [-1, -1].
    """
    if context.tokenizer is None:
        raise UserError("this evaluation embeds text, but the run has no tokenizer")
    local = context.batch_size // context.process_count
    for start in range(0, len(texts), context.batch_size):
        first = start + context.process_index * local
        mine = list(texts[first : first + local])
        index = np.full(local, -1, np.int32)
        index[: len(mine)] = np.arange(first, first + len(mine))
        ids = context.tokenizer(mine + [""] * (local - len(mine)))
        mask = {"text_mask": context.tokenizer.mask(ids)} if context.masked else {}
        yield {"text": ids, **mask, "index": index}


def embed_texts(fn: EvalFn, texts: Sequence[str], context: EvalContext) -> Rows:
    """Rows of texts, equal ones embedded once: [N, ...]."""
    unique, inverse = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    rows = embed_all(fn, text_batches(list(unique), context), len(unique))
    return jax.tree.map(lambda leaf: leaf[inverse], rows)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows divided by their L2 norm; a zero row stays zero. float32[..., D] -> float32[..., D]."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.maximum(norm, 1e-12)).astype(np.float32)

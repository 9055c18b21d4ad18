"""The contract of every evaluator, and the one loop that turns batches into an array of embeddings.

Protocols: CLIP (arXiv:2103.00020) sections 3.1 and 3.2 and the sheets they follow in each module
here. The file exists so that a new method gets every evaluator it can serve, and a new evaluator
every method: an evaluator names the functions it `requires`, is handed exactly those, and returns a
`Result`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.schema import plain
from vlp_jax.data.framing import Framing

HostBatch = dict[str, np.ndarray]
EvalFn = Callable[[HostBatch], tuple[np.ndarray, np.ndarray]]

EVALUATORS = {
    "accuracy": "vlp_jax.evals.accuracy:Accuracy",
    "reconstruction": "vlp_jax.evals.reconstruction:Reconstruction",
    "zeroshot": "vlp_jax.evals.zeroshot:ZeroShot",
    "retrieval": "vlp_jax.evals.retrieval:Retrieval",
    "probe": "vlp_jax.evals.probe:Probe",
    "knn": "vlp_jax.evals.knn:NearestNeighbours",
    "pretext": "vlp_jax.evals.pretext:PretextTask",
    "neighbours": "vlp_jax.evals.neighbours:Neighbours",
}


@dataclasses.dataclass(frozen=True)
class EvalContext:
    """What an evaluator must know about the run: its tokenizer, its picture size, its hosts.

    `batch_size` counts rows over all hosts; a host-local batch has `batch_size // process_count`
    rows. `framing` is that of the model's own preprocessing.
    """

    tokenizer: Callable[[Sequence[str]], np.ndarray] | None
    image_size: int
    batch_size: int
    process_index: int = 0
    process_count: int = 1
    framing: Framing = dataclasses.field(default_factory=Framing)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.process_count:
            share = f"shared by {self.process_count} processes"
            raise UserError(f"evaluation batch_size={self.batch_size} cannot be {share}")


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of an evaluator.

    metrics: name -> number, the ones to log; fractions in [0, 1] unless the name says otherwise.
    tables:  name -> rows (dicts with equal keys), for people.
    details: protocol settings, and arrays and lists from which pictures are drawn.
    """

    metrics: dict[str, float]
    tables: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class Evaluator(Protocol):
    """A frozen dataclass: its fields other than `context` are its config keys."""

    requires: ClassVar[tuple[str, ...]]
    context: EvalContext

    def __call__(self, fns: Mapping[str, EvalFn]) -> Result: ...


def make_evaluator(name: str, cfg: Mapping[str, Any], context: EvalContext) -> Evaluator:
    """Builds the evaluator called `name`, importing its module only now.

    Raises UserError, with the nearest valid name, for an unknown evaluator or key, or a value of
    another type.
    """
    if name not in EVALUATORS:
        raise UserError(f"unknown evaluator {name!r}" + nearest(name, EVALUATORS))
    module, _, attribute = EVALUATORS[name].partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    schema = {field.name: field for field in dataclasses.fields(cls) if field.name != "context"}
    values = {}
    for key, value in plain(cfg).items():
        if key not in schema:
            raise UserError(f"{name}.{key}: unknown key{nearest(key, schema)}")
        values[key] = _coerce(f"{name}.{key}", value, schema[key].default)
    return cls(context=context, **values)


def _coerce(key: str, value: Any, default: Any) -> Any:
    """An int becomes a float where the default is one; any other difference of type is refused."""
    if isinstance(default, str):
        return value  # paths may be sources, templates may be several: the evaluator looks itself
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, float) and is_number:
        return float(value)
    if type(value) is not type(default):
        raise UserError(f"{key} is {value!r}, it must be of type {type(default).__name__}")
    return value


def require_fns(evaluator: Evaluator, fns: Mapping[str, EvalFn]) -> None:
    """Raises UserError when the method offers less than the evaluator requires."""
    for name in evaluator.requires:
        if name not in fns:
            kind = type(evaluator).__name__
            raise UserError(f"evaluator {kind} needs {name!r}; the method offers {sorted(fns)}")


def embed_some(fn: EvalFn, batches: Iterable[HostBatch], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs `fn` over padded batches and puts every row where its index says.

    fn: host-local batch -> (rows float32[B, D], index int32[B]); rows of index -1 are left out.
    Returns float32[n, D] (zeros where no row came) and bool[n], which rows came.
    Rows [2, 0, -1] and [1] fill an array of n = 3.
    Raises RunError for a row out of range or not finite, and when no row came.
    """
    out, seen = None, np.zeros(n, bool)
    for batch in batches:
        rows, index = (np.asarray(a) for a in fn(batch))
        if index.max(initial=-1) >= n:
            raise RunError(f"an evaluation batch holds row {index.max()} of {n}")
        keep = index >= 0
        if out is None:
            out = np.zeros((n, *rows.shape[1:]), np.float32)
        out[index[keep]], seen[index[keep]] = rows[keep], True
    if out is None or not seen.any():
        raise RunError(f"none of {n} rows could be embedded")
    finite = np.isfinite(out).reshape(n, -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise RunError(f"{bad.size} of {n} embeddings are not finite, first {bad[:3].tolist()}")
    return out, seen  # [n, D], [n]


def embed_all(fn: EvalFn, batches: Iterable[HostBatch], n: int) -> np.ndarray:
    """As `embed_some`, but every row must come: float32[n, D]. Raises RunError where one does
    not."""
    out, seen = embed_some(fn, batches, n)
    if not seen.all():
        missing = np.flatnonzero(~seen)
        raise RunError(
            f"{missing.size} of {n} rows were never embedded, first {missing[:3].tolist()}"
        )
    return out


def text_batches(texts: Sequence[str], context: EvalContext) -> Iterator[HostBatch]:
    """Tokenised texts as host-local padded batches {'text': int32[b, L], 'index': int32[b]}.

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
        yield {"text": context.tokenizer(mine + [""] * (local - len(mine))), "index": index}


def embed_texts(fn: EvalFn, texts: Sequence[str], context: EvalContext) -> np.ndarray:
    """Embeddings of texts, equal ones embedded once: float32[N, D]."""
    unique, inverse = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    return embed_all(fn, text_batches(list(unique), context), len(unique))[inverse]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows divided by their L2 norm; a zero row stays zero. float32[..., D] -> float32[..., D]."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.maximum(norm, 1e-12)).astype(np.float32)

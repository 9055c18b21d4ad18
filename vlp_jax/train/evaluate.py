"""Runs the evaluators of a config against parameters, during training and from `eval`.

The same jitted, sharded functions serve both. The file exists because evaluators never see models
and methods never see evaluators.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.types import Array, Extra, HostBatch, Params
from vlp_jax.data.device import to_device
from vlp_jax.data.framing import Framing
from vlp_jax.data.labels import check_classes
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.source import Source, captioned, check_key
from vlp_jax.evals.base import EvalContext, EvalFn, Evaluator, Result, make_evaluator
from vlp_jax.methods.base import Function, Method
from vlp_jax.parallel.mesh import BATCH_AXES, batch_sharding, replicated
from vlp_jax.train.trained import Trained


def make_evaluators(
    configs: Mapping[str, Mapping[str, Any]],
    context: EvalContext,
    method: Method,
    trained: Trained | None = None,
) -> dict[str, Evaluator]:
    """Builds every evaluator of `config.evals`: {name: {type: retrieval, ...}}; the type defaults
    to the name. Of data that were `trained` on, `path` is what was held out, `train` and `val` what
    was not.

    Raises:
      UserError: unknown type or key, a data set that is not there, or a method that lacks a
        function the evaluator needs.
    """
    found = {}
    offered = method.functions()
    for name, config in configs.items():
        config = dict(config)
        evaluator = make_evaluator(config.pop("type", name), config, context)
        lacking = [need for need in evaluator.requires if need not in offered]
        if lacking:
            raise UserError(
                f"evals.{name}: needs {lacking} but {type(method).__name__} offers "
                f"{sorted(offered)}"
            )
        _check_sets(evaluator, name)
        try:
            found[name] = _held_out(evaluator, trained or Trained())
        except UserError as error:
            raise UserError(f"evals.{name}: {error}") from error
    return found


def _check_sets(evaluator: Evaluator, name: str) -> None:
    """Raises UserError for data sets that are not there or have no such labels: a mistake shows
    now, not after the training."""
    folders, label = {}, getattr(evaluator, "label", "")
    for part in ("train", "path"):
        path = getattr(evaluator, part, "")
        if not (isinstance(path, str) and path):
            continue
        try:
            source = open_pool(path)
            if part == "path" and hasattr(evaluator, "check"):
                evaluator.check(source)
        except UserError as error:
            raise UserError(f"evals.{name}: {error}") from error
        if hasattr(evaluator, "caption"):
            check_texts(source, evaluator, f"evals.{name}")
        if label:
            check_key(source, label, f"evals.{name}.label")
            folders[part] = tuple(getattr(source, "classes", ()))
            if part == "train":
                check_classes(source, label, f"evals.{name}.label")
    if len(set(folders.values())) > 1 and all(folders.values()) and label == "label":
        raise UserError(
            f"evals.{name}.label='label' numbers the class folders of each set, and those of "
            f"path {_some(folders['path'])} are not those of train {_some(folders['train'])}; "
            "set it to 'class', their names"
        )


def _held_out(evaluator: Evaluator, trained: Trained) -> Evaluator:
    """The evaluator with its data sets as `Trained.part` gives them."""
    paths = {part: getattr(evaluator, part, "") for part in ("train", "val", "path")}
    return replace(
        evaluator,
        **{
            part: trained.part(path, held=part == "path")
            for part, path in paths.items()
            if path and isinstance(path, str)
        },
    )


def check_texts(source: Source, evaluator: Evaluator, where: str) -> None:
    """Raises UserError, `where` in front, for a set without the captions that will be asked for."""
    if evaluator.caption:
        check_key(source, evaluator.caption, f"{where}.caption")
    elif not captioned(source):
        raise UserError(f"{where}: no captions in {evaluator.path!r}; {where}.path needs pairs")


def _some(names: tuple[str, ...]) -> str:
    return f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


class Embedder:
    """The method's evaluation functions, compiled once per function and batch shape."""

    def __init__(self, method: Method, mesh: Mesh):
        self._mesh = mesh
        self._fns = {name: self._compile(fn) for name, fn in method.functions().items()}

    def _compile(self, fn: Function) -> Any:
        def run(params: Params, extra: Extra, batch: dict[str, Array]) -> tuple[Array, Array]:
            batch = dict(batch)
            index = batch.pop("index")
            rows = fn(Vars(params, extra), Inputs.of(batch))
            return rows.astype(jnp.float32), index

        whole = replicated(self._mesh)
        return jax.jit(run, out_shardings=(whole, whole))

    def bind(self, params: Params, extra: Extra) -> dict[str, EvalFn]:
        """Functions from a host-local padded batch to (rows float32[B, D], index int32[B]) on every
        host.
        """

        def bound(fn: Any) -> EvalFn:
            def call(batch: HostBatch) -> tuple[np.ndarray, np.ndarray]:
                with jax.set_mesh(self._mesh):
                    rows, index = fn(params, extra, to_device(batch, batch_sharding(self._mesh)))
                return np.asarray(rows), np.asarray(index)

            return call

        return {name: bound(fn) for name, fn in self._fns.items()}


def eval_context(
    tokenizer: Any, pictures: Mapping[str, Any], batch_size: int, mesh: Mesh
) -> EvalContext:
    """What evaluators know of a run.

    Args:
      tokenizer: or None for a method without text.
      pictures: image_size and what `Framing` holds (other keys are left).
      batch_size: wanted rows per call; rounded up to a multiple of the devices that split the
        batch.
      mesh: the device mesh.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    rows = -(-batch_size // ways) * ways
    hosts = dict(process_index=jax.process_index(), process_count=jax.process_count())
    pictures = dict(image_size=pictures["image_size"], framing=Framing.of(pictures))
    return EvalContext(tokenizer, batch_size=rows, **pictures, **hosts)


def run_evaluators(
    evaluators: Mapping[str, Evaluator],
    fns: Mapping[str, EvalFn],
    trained: Trained | None = None,
) -> dict[str, Result]:
    """{name: Result} of every evaluator; the protocol names its data sets and says how much of them
    was trained on.

    Raises:
      UserError: a mistake in an evaluator's data, named `evals.NAME`.
    """
    results = {}
    for name, evaluator in evaluators.items():
        try:
            result = evaluator(fns)
            sets = _sets(evaluator, trained or Trained())
        except UserError as error:
            raise UserError(f"evals.{name}: {error}") from error
        protocol = {**sets, **result.details.get("protocol", {})}
        results[name] = replace(result, details={**result.details, "protocol": protocol})
    return results


def _sets(evaluator: Evaluator, trained: Trained) -> dict[str, str]:
    found = {"train data": getattr(evaluator, "train", ""), "data": getattr(evaluator, "path", "")}
    names = {key: getattr(data, "name", data) for key, data in found.items()}
    names = {key: name for key, name in names.items() if name and isinstance(name, str)}
    data = found["data"]
    seen = trained.seen(open_pool(data) if isinstance(data, str) else data) if names else ""
    return {**names, "trained on": seen} if seen else names


def scalars(results: Mapping[str, Result]) -> dict[str, float]:
    """{eval/NAME/METRIC: value} for the metrics log."""
    return {
        f"eval/{name}/{metric}": float(value)
        for name, result in results.items()
        for metric, value in result.metrics.items()
    }

"""Runs the evaluators of a config against parameters, during training and from `eval`.

The file exists because evaluators never see models and methods never see evaluators.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh

from vlp_jax.core.errors import UserError
from vlp_jax.data.framing import Framing
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalContext, EvalFn, Evaluator, Result, make_evaluator
from vlp_jax.methods.base import Method
from vlp_jax.parallel.mesh import BATCH_AXES
from vlp_jax.train.functions import share_options
from vlp_jax.train.progress import Evaluating
from vlp_jax.train.trained import Trained


def make_evaluators(
    configs: Mapping[str, Mapping[str, Any]],
    context: EvalContext,
    method: Method | None,
    trained: Trained | None = None,
) -> dict[str, Evaluator]:
    """Builds every evaluator of `config.evals`: {name: {type: retrieval, ...}}; the type defaults
    to the name. Of data that were `trained` on, `path` is what was held out, the other sets what
    was not. method: None where there is no model.

    Raises:
      UserError: unknown type or key, a data set that is not there, or a method that lacks a
        function the evaluator needs, or an option of it.
    """
    found = {}
    offered = {} if method is None else method.functions()
    for name, config in configs.items():
        config, where = dict(config), f"evals.{name}"
        evaluator = make_evaluator(config.pop("type", name), config, context)
        lacking = [need for need in evaluator.requires if need not in offered]
        if lacking:
            has = "there is no model, give --checkpoint"
            if method is not None:
                has = f"{type(method).__name__} offers {sorted(offered)}"
            raise UserError(f"{where}: needs {lacking} but {has}")
        needed = {need: offered[need] for need in evaluator.requires}
        evaluator = replace(evaluator, reads={need: fn.reads for need, fn in needed.items()})
        for how in evaluator.hows():  # a mistake shows now
            share_options(needed, how, f"{where}.how")
        if evaluator.how:
            options = share_options(needed, evaluator.how, f"{where}.how")
            evaluator = replace(evaluator, options=options)
        evaluator.check(_open_sets(evaluator, where), where)
        try:
            found[name] = _held_out(evaluator, trained or Trained())
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    return found


def _named_sets(evaluator: Evaluator) -> dict[str, str]:
    """The evaluator's data sets by config key that are named, not handed over open."""
    return {key: path for key, path in evaluator.sets().items() if path and isinstance(path, str)}


def _open_sets(evaluator: Evaluator, where: str) -> dict[str, Source]:
    """Its named data sets, open: a mistake shows now, not after the training."""
    try:
        return {key: open_pool(path) for key, path in _named_sets(evaluator).items()}
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _held_out(evaluator: Evaluator, trained: Trained) -> Evaluator:
    """The evaluator with its data sets as `Trained.part` gives them."""
    parts = {
        key: trained.part(path, held=key == "path") for key, path in _named_sets(evaluator).items()
    }
    return replace(evaluator, **parts)


def eval_context(
    tokenizer: Any,
    pictures: Mapping[str, Any],
    batch_size: int,
    mesh: Mesh,
    masked: bool = False,
) -> EvalContext:
    """What evaluators know of a run.

    Args:
      tokenizer: or None for a method without text.
      pictures: image_size and what `Framing` holds (other keys are left).
      batch_size: wanted rows per call; rounded up to a multiple of the devices that split the
        batch.
      mesh: the device mesh.
      masked: the model's texts come with a mask of what is no padding.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    rows = -(-batch_size // ways) * ways
    hosts = dict(process_index=jax.process_index(), process_count=jax.process_count())
    names = {"image_size": pictures["image_size"], "member": pictures.get("member", "")}
    pictures = {**names, "framing": Framing.of(pictures)}
    return EvalContext(tokenizer, batch_size=rows, masked=masked, **pictures, **hosts)


def run_evaluators(
    evaluators: Mapping[str, Evaluator],
    fns: Mapping[str, EvalFn],
    trained: Trained | None = None,
) -> dict[str, Result]:
    """{name: Result} of every evaluator, told while it runs; the protocol names its data sets and
    says how much of them was trained on.

    Raises:
      UserError: a mistake in an evaluator's data, named `evals.NAME`.
    """
    results, told = {}, Evaluating(evaluators)
    for name, evaluator in evaluators.items():
        try:
            result = evaluator({key: told.telling(name, key, fn) for key, fn in fns.items()})
            sets = _sets(evaluator, trained or Trained())
        except UserError as error:
            raise UserError(f"evals.{name}: {error}") from error
        protocol = {**sets, **result.protocol}
        results[name] = replace(result, details={**result.details, "protocol": protocol})
    told.end()
    return results


def _sets(evaluator: Evaluator, trained: Trained) -> dict[str, str]:
    """What the protocol says of its data sets: their names, and what of them was trained on."""
    sets, names = evaluator.sets(), {}
    for key, said in (("train", "train data"), ("path", "data")):
        name = getattr(sets.get(key, ""), "name", sets.get(key, ""))  # of a part of a data set
        if name and isinstance(name, str):
            names[said] = name
    data = sets["path"]
    seen = trained.seen(open_pool(data) if isinstance(data, str) else data) if names else ""
    return {**names, "trained on": seen} if seen else names


def scalars(results: Mapping[str, Result]) -> dict[str, float]:
    """{eval/NAME/METRIC: value} for the metrics log."""
    return {
        f"eval/{name}/{metric}": float(value)
        for name, result in results.items()
        for metric, value in result.metrics.items()
    }

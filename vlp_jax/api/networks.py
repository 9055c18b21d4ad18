"""Checkpoints that an evaluation asks beside its own model: what judges drawn pictures.

The file exists because evaluators see functions and never models: here a folder becomes the
functions, the digest and the name under which they know it.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from vlp_jax.api.digests import digests
from vlp_jax.api.model import Model, load_model
from vlp_jax.api.placement import choose_mesh
from vlp_jax.data.labels import class_list
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.source import digest
from vlp_jax.evals.base import EvalFn
from vlp_jax.evals.kits.networks import Network
from vlp_jax.evals.kits.views import OWN
from vlp_jax.train.evaluate import eval_context
from vlp_jax.train.functions import Embedder


def opener(
    sharding: str, shape: Mapping[str, int] | None, batch_size: int
) -> Callable[[str], Network]:
    """f(path of a converted folder or a training workdir) -> the network, opened once.

    Args:
      sharding, shape: see load_model; on all devices.
      batch_size: rows of a call over all hosts.
    """

    preset = sharding or "replicated"

    @functools.cache
    def open_network(path: str) -> Network:
        """Raises UserError as load_model does."""
        mesh = choose_mesh(preset, shape)
        model = load_model(path, preset, shape)
        text = model.method.fields().get("text")
        tokenizer, masked = (None, False) if text is None else (model.tokenizer(), text.mask)
        context = eval_context(tokenizer, model.preprocessing, batch_size, mesh, masked)
        fns = Embedder(model.method, mesh).bind(model.params, model.extra)
        return Network(
            label_of(model),
            digest([f"{name} {value}" for name, value in sorted(digests(model).items())]),
            {name: _exactly(fn) for name, fn in fns.items()},
            context,
            model.preprocessing.get("resize", OWN),
            functools.partial(classes_of, model),
        )

    return open_network


def _exactly(fn: EvalFn) -> EvalFn:
    """Products in full float32, so that figures agree between kinds of device."""

    def run(*args: Any, **how: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return fn(*args, **how)

    return run


def label_of(model: Model) -> str:
    """`classifier` or `own_METHOD` of a training here, `vit_l_14` of a released architecture."""
    if "data" in model.config:
        name = model.config["method"]["name"]
        return "classifier" if name == "classify" else f"own_{name}"
    return re.sub("[^a-z0-9]+", "_", model.config["arch"].lower()).strip("_")


def classes_of(model: Model) -> Sequence[str]:
    """The words that a training's classes were numbered by, () where they are numbers, or of a
    released model.

    Raises:
      UserError: the data set that was trained on is not there.
    """
    data = model.config.get("data")
    if data is None or "classify" not in model.method.functions():
        return ()
    field = (data.get("fields") or {}).get("label") or {}
    key = field.get("key") or data["label"]
    return class_list(open_pool(data["path"]), key, "data.label") if key else ()

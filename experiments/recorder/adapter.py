"""The recorder's whole knowledge of the package: after a rebuild only this file is edited.

The file exists so that a record of the old tree and one of the new are made by the same code, and
what the rebuild renamed is told here once.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict

from vlp_jax.__main__ import main as main
from vlp_jax.api.config import load_config
from vlp_jax.api.start import loaded_weights, replace_weights
from vlp_jax.api.train import train as run_training
from vlp_jax.core.pytree import flatten, map_with_path, merge
from vlp_jax.data.device import to_device
from vlp_jax.evals.base import Result, text_batches
from vlp_jax.evals.kits.figures import Grid, Panels
from vlp_jax.evals.kits.samples import embed_pictures, open_samples
from vlp_jax.models import resnet_v1
from vlp_jax.parallel.mesh import batch_sharding
from vlp_jax.report.results import to_json
from vlp_jax.train.evaluate import run_evaluators
from vlp_jax.train.state import eval_params
from vlp_jax.train.trainer import Trainer, learning_rate, total_steps

Arrays = dict[str, np.ndarray]
KEYS: dict[str, str] = {}  # of configs, the first record's -> this tree's, "" where it has none
EXAMPLES = 1_000_000  # of the data set that the schedules of whole recipes are asked for

resnet_v1.LAYERS.update({18: (1, 0, 0, 1), 50: (1, 0, 0, 1)})  # two blocks: less to compile


def rename(path: str) -> str:
    """The name that a leaf of this tree (`params/image/head/kernel`, `batch/text`) had in the first
    record.
    """
    return "batch/aspect" if path == "batch/image_aspect" else path


def argument(word: str) -> str:
    """A word of a command line in this tree's names."""
    flag, equals, value = word.partition("=")
    key = flag.removeprefix("--config.")
    return f"--config.{KEYS[key]}{equals}{value}" if key in KEYS else word


def open_config(spec: str, keys: Mapping[str, str]) -> ConfigDict:
    """A recipe under configs/ with changes, and those of its evaluators that the changes name."""
    changes = {KEYS.get(key, key): value for key, value in keys.items() if KEYS.get(key, key)}
    config = load_config(f"configs/{spec}", changes)
    named = {key.split(".")[1] for key in keys if key.startswith("evals.")}
    with config.unlocked():
        config.evals = ConfigDict({name: config.evals[name] for name in sorted(named)})
    return config


def optimiser(spec: str) -> dict[str, Any]:
    """Of a whole recipe: its settings, its steps, its learning rate on the way."""
    config = load_config(f"configs/{spec}", {})
    total, rate = total_steps(config, EXAMPLES), learning_rate(config, EXAMPLES)
    places = (0.001, 0.02, 0.1, 0.5, 0.9)
    rates = {f"rate at {share}": float(rate(int(share * total))) for share in places}
    return {**config.optim.to_dict(), "steps": total, **rates}


def train(config: ConfigDict, workdir: Path) -> None:
    """A finished run, to start others from."""
    run_training(config, workdir)


class Run:
    """A training run: its state, its batches, its step, its evaluators.

    Args:
      config: of `open_config`.
      process: (number, count) of the process whose data is read.
    """

    def __init__(self, config: ConfigDict, process: tuple[int, int] = (0, 1)):
        with (
            mock.patch.object(jax, "process_index", lambda: process[0]),
            mock.patch.object(jax, "process_count", lambda: process[1]),
        ):
            self.trainer = Trainer(config)
            _ = self.trainer.context
        self.names = tuple(self.trainer.method.batch_spec(1))
        self._programs: dict[str, Any] = {}

    def start(self) -> Any:
        """The state before the first step, with the weights of `init_from`."""
        state, source = self.trainer.fresh_state(), self.trainer.config.init_from
        if not source:
            return state
        return replace_weights(self.trainer, state, loaded_weights(source, self.trainer))

    def arrays(self, state: Any) -> Arrays:
        """Weights, trained and frozen, extra state and moving average by path."""
        params = merge(state["params"], state["frozen"])
        tree = {"params": params, "extra": state["extra"], "ema": state["ema"]}
        return {rename(path): np.asarray(leaf) for path, leaf in flatten(tree).items()}

    def put(self, state: Any, arrays: Mapping[str, np.ndarray]) -> Any:
        """The state with the leaves that `arrays` has."""

        def swap(part: str) -> Any:
            group = "params" if part == "frozen" else part

            def place(path: str, leaf: jax.Array) -> jax.Array:
                return jax.device_put(arrays.get(rename(f"{group}/{path}"), leaf), leaf.sharding)

            return map_with_path(place, state[part])

        return state | {part: swap(part) for part in ("params", "frozen", "extra", "ema")}

    def batches(self, count: int) -> list[Arrays]:
        """The first training batches of this process, as the step eats them."""
        found = itertools.islice(self.trainer.pipeline.batches(0), count)
        return [{rename(f"batch/{name}"): batch[name] for name in self.names} for batch in found]

    def eval_batches(self, path: str, limit: int) -> dict[str, list[Arrays]]:
        """The batches that evaluators of this run see of a data set: pictures, and its captions."""
        source, context, seen = open_samples(path, limit), self.trainer.context, []

        def watch(batch: Arrays) -> tuple[np.ndarray, np.ndarray]:
            seen.append(batch)
            return np.zeros((len(source), 1), np.float32), np.arange(len(source))

        embed_pictures(watch, source, context)
        if context.tokenizer is None:
            return {"pictures": seen}
        captions = [text for i in range(len(source)) for text in source.metadata(i)["text"]]
        return {"pictures": seen, "texts": list(text_batches(captions, context))}

    def program(self, batch: Arrays) -> tuple[str, Any]:
        """(StableHLO of the step, the step compiled) for a batch's shapes."""
        shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in self._own(batch).items()}
        key, trainer = str(shapes), self.trainer
        if key not in self._programs:
            with jax.set_mesh(trainer.mesh):
                lowered = trainer.jit_step.lower(trainer.abstract_state, shapes)
                self._programs[key] = lowered.as_text(), lowered.compile()
        return self._programs[key]

    def step(self, state: Any, batch: Arrays) -> tuple[Any, dict[str, float]]:
        """One step: (the next state, its metrics)."""
        mesh, run = self.trainer.mesh, self.program(batch)[1]
        with jax.set_mesh(mesh):
            state, metrics = run(state, to_device(self._own(batch), batch_sharding(mesh)))
        return state, {name: float(value) for name, value in jax.device_get(metrics).items()}

    def _own(self, batch: Arrays) -> Arrays:
        return {name: batch[rename(f"batch/{name}")] for name in self.names}

    def evaluate(self, state: Any) -> tuple[dict[str, Any], Arrays]:
        """({evaluator: metrics, tables and protocol}, arrays that pictures are drawn from)."""
        trainer = self.trainer
        fns = trainer.embedder.bind(eval_params(state), state["extra"])
        results = run_evaluators(trainer.evaluators, fns, trainer.trained)
        drawn = {
            f"{name}/{key}": value
            for name, result in results.items()
            for key, value in (*result.details.items(), *_pictures(result))
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        }
        return to_json(results), drawn


def _pictures(result: Result) -> Iterator[tuple[str, np.ndarray]]:
    """What the first record had of sheets among a result's details."""
    for key, figure in result.figures.items():
        if isinstance(figure, Panels):
            yield key, figure.panels
        if isinstance(figure, Grid):
            yield key, figure.rows

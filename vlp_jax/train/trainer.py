"""Everything a run needs, built from its config and checked before anything is compiled.

The file exists so that `train`, `eval` and tests assemble a run in one way, and a mistake in the
config costs a second.
"""

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Cached, Field, Spec, Text, batch_spec, present, replaced
from vlp_jax.core.pytree import map_with_path, merge
from vlp_jax.core.schema import build, plain
from vlp_jax.core.types import Batch
from vlp_jax.data.mixture import look_for
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.text.named import open_tokenizers
from vlp_jax.evals.base import EvalContext, Evaluator
from vlp_jax.methods.base import Method, make_method
from vlp_jax.optim.adapt import Adapt
from vlp_jax.optim.optimizer import OptimConfig, make_optimizer
from vlp_jax.optim.players import factors_of, optimizers
from vlp_jax.optim.schedules import Schedule, duration, make_schedule
from vlp_jax.parallel.hosts import gather
from vlp_jax.parallel.mesh import batch_sharding, check_batch, make_mesh, replicated
from vlp_jax.parallel.sharding import param_sharding, put
from vlp_jax.parallel.widening import options_for
from vlp_jax.train.evaluate import eval_context, make_evaluators
from vlp_jax.train.functions import Embedder, cached_fields, check_learned
from vlp_jax.train.settings import check_pictures, check_settings
from vlp_jax.train.state import Recipe, Start, frozen_paths, init_state, restate
from vlp_jax.train.step import make_step
from vlp_jax.train.trained import Trained

_log = logging.getLogger(__name__)


def total_steps(config: ConfigDict, num_examples: int, offset: int = 0) -> int:
    """Length of a run in steps, from `steps`, `examples` or `epochs`."""
    return duration(config, "", config.batch_size, num_examples, offset)


def learning_rate(
    config: ConfigDict, num_examples: int, offset: int = 0, own: Mapping[str, Any] | None = None
) -> Schedule:
    """Learning rate of a step; own: of a player, what its config.optim is.

    Raises:
      UserError: an unknown schedule.
    """
    said = plain(config.optim) if own is None else own
    optim = OptimConfig(**said)
    total = total_steps(config, num_examples, offset)
    warmup = duration(said, "warmup_", config.batch_size, num_examples)
    epoch = num_examples / config.batch_size if optim.lr_by_epoch else 0.0
    how = (optim.lr_final, epoch, optim.lr_decay)
    return make_schedule(optim.schedule, optim.lr, total, warmup, *how)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A run's parts; building one opens the data and checks every key, compiling nothing.

    Attributes:
      config: the resolved config (configs/common.py).
      offset: of the data position, where the batch size was changed on the way (train/workdir.py).
      network: opens other checkpoints for evaluators (evals/base.py EvalContext).
    """

    config: ConfigDict
    offset: int = dataclasses.field(default=0, kw_only=True)
    network: Callable[[str], Any] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        c = self.config
        check_settings(c)
        check_batch(c.batch_size, c.accumulate, self.mesh)
        self.method.check_batch(c.batch_size)
        check_pictures(c.image_size, self.method)
        look_for(c.data.path)  # they often come with their vocabulary
        _ = self.tokenizers, self.tx, self.pipeline, self.schedule, self.evaluators
        if (self.method.frozen or c.freeze or self.recipe.adapt) and not c.init_from:
            self.check_given({})
        self._check_cache()

    def _check_cache(self) -> None:
        """Tells which changes of pictures a cache leaves out. Raises UserError as
        train/functions.py check_learned."""
        functions = self.method.functions()
        held = [n for n, f in self.fields.items() if isinstance(f, Cached) and n in functions]
        seen = [name for n in held for name in functions[n].reads]
        if "image" in seen and (changes := self.method.changes):
            what = "change no picture where data.path is a cache of"
            _log.warning("%s: %s %s", " and ".join(changes), what, ", ".join(held))
        if held and self.recipe.adapt:
            start = self.abstract
            learned, extra = (start.state[name] for name in ("params", "extra"))
            check_learned(self.method, held, merge(learned, start.frozen), extra, learned)

    @cached_property
    def mesh(self) -> Mesh:
        """The device mesh of `config.mesh`."""
        return make_mesh(self.config.mesh.to_dict())

    @cached_property
    def method(self) -> Method:
        """The method of `config.method`."""
        return make_method(self.config.method)

    @cached_property
    def whole_fields(self) -> dict[str, Field]:
        """What a batch of samples as they are holds, and evaluators read."""
        return present(self.method.fields(), self.config.data.get("fields", {}))

    @cached_property
    def fields(self) -> dict[str, Field]:
        """What a batch holds: where data.path is a cache, its outputs of the method's functions in
        place of what those read."""
        whole = self.whole_fields
        return replaced(whole, cached_fields(self.method, whole, self.config.data.path))

    def batch_spec(self, batch_size: int) -> Spec:
        """Shapes and dtypes of a global batch."""
        return batch_spec(self.fields, batch_size)

    @cached_property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizer of every text."""
        return open_tokenizers(self.whole_fields, self.config.data)

    @cached_property
    def pipeline(self) -> TrainPipeline:
        """The training data of `config.data`."""
        c = self.config
        return TrainPipeline(
            c.data,
            self.fields,
            batch_size=c.batch_size,
            seed=c.seed,
            tokenizers=self.tokenizers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            offset=self.offset,
        )

    @cached_property
    def steps(self) -> int:
        """Length of the run in steps, from `steps`, `examples` or `epochs`."""
        total = total_steps(self.config, self.pipeline.num_examples, self.offset)
        if total < 1:
            raise UserError(f"steps={total}: set steps, examples or epochs to a positive number")
        return total

    @cached_property
    def optim(self) -> dict[str, dict[str, Any]]:
        """The config of the optimiser, {"": ...}, or of each player's."""
        return optimizers(self.config.optim, tuple(self.method.players()))

    def _for_each(self, make: Callable[[Mapping[str, Any]], Any]) -> Any:
        """`make` of the optimiser's config, or {player: `make` of its own}."""
        made = {player: make(config) for player, config in self.optim.items()}
        return made.get("", made)

    @cached_property
    def schedule(self) -> Schedule | dict[str, Schedule]:
        """Learning rate of a step, or each player's."""
        _ = self.steps  # checked
        count = self.pipeline.num_examples
        return self._for_each(lambda own: learning_rate(self.config, count, self.offset, own))

    @cached_property
    def tx(self) -> Any:
        """The optimiser, or each player's."""
        return self._for_each(make_optimizer)

    @cached_property
    def recipe(self) -> Recipe:
        """What the state and the step need to know."""
        names = inspect.signature(Recipe).parameters
        said = {name: plain(self.config[name]) for name in names if name in self.config}
        return Recipe(**said | {"adapt": build(Adapt, said.get("adapt", {}), "adapt")})

    @cached_property
    def abstract(self) -> Start:
        """Shapes, dtypes and shardings of what a run starts from."""
        shapes = jax.eval_shape(lambda: init_state(self.method, self.tx, self.recipe))
        sharding = param_sharding(shapes, self.mesh, self.config.sharding)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding
        )

    @property
    def sharding(self) -> Start:
        """Sharding of every leaf."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)

    def check_given(self, weights: Mapping[str, Any]) -> list[str]:
        """Paths of frozen weights, and of their statistics, that {path: array} does not give.

        Raises:
          UserError: there are some and the config does not allow to draw them at random.
        """
        lacking = [path for path in frozen_paths(self.method, self.abstract) if path not in weights]
        if lacking and not self.config.get("allow_random_frozen", False):
            first = f"{lacking[0]} ({len(lacking)} such)" if len(lacking) > 1 else lacking[0]
            raise UserError(
                f"init_from: gives no {first}, which is frozen and never drawn at random (but for "
                "tests, with allow_random_frozen=true)"
            )
        return lacking

    def first(self, weights: Mapping[str, Any] | None = None) -> Start:
        """What a new run starts from, every leaf born on its devices or put there from the given
        {path: array}; state that copies weights (a teacher) is made of these, unless it is given.

        Raises:
          UserError: see `check_given`.
        """
        given = weights or {}
        drawn = bool(self.check_given(given))
        init = lambda: init_state(self.method, self.tx, self.recipe)  # noqa: E731
        fresh = init if drawn else lambda: init().state
        places = self.sharding if drawn else self.sharding.state
        with jax.set_mesh(self.mesh):
            made = jax.jit(fresh, out_shardings=places)()
        state, frozen = made if drawn else (made, self.abstract.frozen)
        if not given:
            return Start(state, frozen)

        def lay(path: str, leaf: Any) -> jax.Array:
            return put(given[path], leaf) if path in given else leaf

        frozen = map_with_path(lay, frozen)
        state |= {name: map_with_path(lay, state[name]) for name in ("params", "extra")}
        state = self.restate(Start(state, frozen))
        return Start({**state, "extra": map_with_path(lay, state["extra"])}, frozen)

    def restate(self, start: Start) -> dict[str, Any]:
        """The state after other weights took the place of the first ones (train/state.py)."""
        again = lambda start: restate(self.method, self.recipe, *start)  # noqa: E731
        places = {name: self.sharding.state[name] for name in ("extra", "ema")}
        with jax.set_mesh(self.mesh):
            return {**start.state, **jax.jit(again, out_shardings=places)(start)}

    @property
    def jit_step(self) -> Any:
        """The jitted step: (state, frozen, batch) -> (state, metrics), the state donated; of all
        phases, where there are such.
        """
        return self._jitted(tuple(phase.name for phase in self.method.phases()))

    @cached_property
    def _jitted(self) -> Callable[[tuple[str, ...]], Any]:
        return functools.cache(self._jit)

    def _jit(self, phases: tuple[str, ...]) -> Any:
        state, frozen = self.abstract
        params = state["params"]
        shares = self.method.share_out(params) if self.method.players() else {"": params}
        factors = factors_of(self.optim, shares, merge(params, frozen))
        how = self.method, self.tx, self.schedule, factors, self.recipe, phases
        step = make_step(*how)
        return jax.jit(
            step,
            in_shardings=(*self.sharding, batch_sharding(self.mesh)),
            out_shardings=(self.sharding.state, replicated(self.mesh)),
            donate_argnums=0,
            compiler_options=options_for(frozen, self.mesh) or None,
        )

    @cached_property
    def _programs(self) -> dict[tuple[Any, ...], Any]:
        return {}

    def program(self, batch: Batch, step: int | None = None) -> Any:
        """The step compiled ahead of time for a batch, once for all lengths of texts that
        data.buckets brings, and for the phases that are played at `step` (None: all).
        """
        method = self.method
        phases = tuple(p.name for p in method.phases()) if step is None else method.playing(step)
        cut = [n for n, field in self.fields.items() if isinstance(field, Text) and field.cut]
        lengths = tuple(batch[name].shape[1] for name in cut)
        if (lengths, phases) not in self._programs:
            spec = self.batch_spec(self.config.batch_size)
            for array in (array for name in cut for array in self.fields[name].spec(name, 1)):
                spec[array] = jax.ShapeDtypeStruct(batch[array].shape, spec[array].dtype)
            with jax.set_mesh(self.mesh):
                lowered = self._jitted(phases).lower(*self.abstract, spec)
                self._programs[lengths, phases] = lowered.compile()
            if jax.default_backend() == "cpu":
                gather("compiled")  # a CPU collective waits 30 s for the slowest, then fails
        return self._programs[lengths, phases]

    @cached_property
    def step(self) -> Any:
        """The step on batches of any text length: (state, frozen, batch, number of the step) ->
        (state, metrics).
        """

        def step(state: Any, frozen: Any, batch: Batch, number: int | None = None) -> Any:
            return self.program(batch, number)(state, frozen, batch)

        return step

    @cached_property
    def context(self) -> EvalContext:
        """What evaluators know of the run."""
        data = self.config.data
        how = {**data.image, **data.get("fields", {}).get("image", {})}
        pictures = {**how, "crop": how["eval_crop"], "image_size": self.config.image_size}
        tokenizer = self.tokenizers.get("text")  # what evaluators call the texts they embed
        masked = tokenizer is not None and self.whole_fields["text"].mask
        size = self.config.eval_batch_size
        found = eval_context(tokenizer, pictures, size, self.mesh, masked)
        return dataclasses.replace(found, tokenizers=self.tokenizers, network=self.network)

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """The evaluators of `config.evals`."""
        evals = self.config.evals.to_dict()
        return make_evaluators(evals, self.context, self.method, self.trained)

    @cached_property
    def trained(self) -> Trained:
        """What of an evaluator's data this run trains on."""
        return Trained(self.config.data.path, self.config.data.get("holdout", 0.0))

    @cached_property
    def embedder(self) -> Embedder:
        """The method's functions, compiled for evaluation."""
        return Embedder(self.method, self.mesh)

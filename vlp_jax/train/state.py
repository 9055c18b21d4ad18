"""The train state, one nested dict of arrays, and beside it the frozen weights; both born sharded.

Keys of the state: step (int32[]), params (trained), opt, extra, ema, skipped and skipped_in_row
(int32[]). Frozen weights have no gradient and no optimiser state and never change, so a step does
not hand them on and a checkpoint does not write them again. The file exists so that checkpointing,
sharding and the step agree on these trees.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.inputs import Vars, lay
from vlp_jax.core.pytree import check_matched, flatten, matches, merge, partition
from vlp_jax.core.types import Array, Extra, Params
from vlp_jax.methods.base import STATS, Method
from vlp_jax.optim.adapt import Adapt, draw

State = dict[str, Any]
ACCUMULATE_BATCHNORM = ("refuse", "micro")


class Start(NamedTuple):
    """What a run goes on from: its state, and {part: ...} of the frozen weights."""

    state: State
    frozen: Params


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parts of a config that define the state and the step.

    Attributes:
      seed: of parameters and of every step's randomness.
      batch_size, accumulate: examples per step and micro-batches.
      freeze: path regexes without gradient, beside the method's own; what they cover runs as in
        evaluation (nn/frozen.py).
      ema_decay: 0 is off.
      accumulate_batchnorm: `micro` lets BatchNorm that learns normalise by each micro-batch, which
        is not the gradient of the batch; `refuse` does not.
      adapt: adapters that learn in place of all else (optim/adapt.py).
    """

    seed: int
    batch_size: int
    accumulate: int = 1
    freeze: tuple[str, ...] = ()
    ema_decay: float = 0.0
    accumulate_batchnorm: str = "refuse"
    adapt: Adapt = dataclasses.field(default_factory=Adapt)


def init_state(
    method: Method, tx: optax.GradientTransformation | Mapping[str, Any], recipe: Recipe
) -> Start:
    """Everything fresh; run it under jit with out_shardings, or `eval_shape` for its shapes.

    tx: of players {player: its own}, or one for all; the state's `opt` is {player: ...} then.

    Raises:
      UserError: `freeze` leaves nothing to train, or one of its patterns matches no parameter;
        BatchNorm under `accumulate`; see optim/adapt.py draw.
    """
    params, extra = method.fresh(jax.random.key(recipe.seed))
    check_matched("freeze", recipe.freeze, params)
    frozen, trained = _parted(method, recipe, params)
    if not jax.tree.leaves(trained):
        raise UserError("freeze: every parameter is frozen, nothing is left to train")
    _check_norms(recipe, batch_norms(trained, frozen, extra))
    state = {
        "step": jnp.int32(0),
        "params": trained,
        "opt": _first_moments(method, tx, trained),
        "extra": extra,
        "ema": jax.tree.map(jnp.copy, trained) if recipe.ema_decay else {},
        "skipped": jnp.int32(0),
        "skipped_in_row": jnp.int32(0),
    }
    return Start(state, recipe.adapt.keep(method.stored(frozen)))


def _parted(method: Method, recipe: Recipe, params: Params) -> tuple[Params, Params]:
    """(frozen, trained) weights, adapters among these."""
    adapt = recipe.adapt
    if not adapt:
        return partition(params, (*method.frozen, *recipe.freeze))
    check_matched("adapt.learn", adapt.learn, params)
    if adapt.rank:
        key = rngs.fold(jax.random.key(recipe.seed), "adapt")
        params = merge(params, draw(adapt, method.adapters(adapt.rank), key))
    trained, frozen = partition(params, adapt.trained)
    return frozen, trained


def _first_moments(method: Method, tx: Any, trained: Params) -> Any:
    if not method.players():
        return tx.init(trained)
    shares = method.share_out(trained)
    return {player: of_player(tx, player).init(share) for player, share in shares.items()}


def of_player(value: Any, player: str) -> Any:
    """Its own of {player: value}; else the one that all have."""
    return value[player] if isinstance(value, Mapping) else value


def restate(method: Method, recipe: Recipe, state: State, frozen: Params) -> State:
    """The entries of a state that follow from weights which took the place of the first ones: the
    method's extra state, made anew, and the moving average.
    """
    v = Vars(merge(state["params"], frozen), state["extra"])
    made = method.state(v, jax.random.key(recipe.seed))
    ema = jax.tree.map(jnp.copy, state["params"]) if state["ema"] else {}
    return {"extra": lay(made, state["extra"]), "ema": ema}


def frozen_paths(method: Method, start: Start) -> list[str]:
    """Paths of what must be given and never drawn: frozen weights, and the statistics of BatchNorms
    that do not learn and of frozen parts without weights, under `batch_stats/`. Nothing where no
    weight is frozen.
    """
    if not start.frozen:
        return []
    extra, trained = start.state["extra"], start.state["params"]
    learn = [f"{norm}/" for norm in batch_norms(trained, start.frozen, extra)]
    parts = [*trained, *start.frozen]
    stats = [
        path
        for path in flatten(extra.get(STATS, {}))
        if not path.startswith((*learn,))
        and (path.split("/")[0] in parts or matches(path, method.frozen))
    ]
    return [*flatten(start.frozen), *(f"{STATS}/{path}" for path in stats)]


def batch_norms(trained: Params, frozen: Params, extra: Extra) -> list[str]:
    """Paths of the BatchNorms that learn, by their statistics: with a trained parameter of their
    own, or, where they have none, of the network around them.
    """
    learns, fixed = flatten(trained), flatten(frozen)
    found = {path.rpartition("/")[0] for path in flatten(extra.get(STATS, {}))}

    def inside(module: str, paths: dict) -> bool:
        return any(path.startswith(f"{module}/") for path in paths)

    def owner(module: str) -> str:
        known = inside(module, learns | fixed) or "/" not in module
        return module if known else owner(module.rpartition("/")[0])

    return sorted(module for module in found if inside(owner(module), learns))


def _check_norms(recipe: Recipe, norms: list[str]) -> None:
    choice = recipe.accumulate_batchnorm
    if choice not in ACCUMULATE_BATCHNORM:
        hint = nearest(choice, ACCUMULATE_BATCHNORM)
        raise UserError(f"accumulate_batchnorm: unknown {choice!r}{hint}")
    if recipe.accumulate > 1 and norms and choice == "refuse":
        raise UserError(
            f"accumulate={recipe.accumulate}: BatchNorm ({len(norms)}, first {norms[0]}) would see "
            "each micro-batch alone, which is another gradient than the batch's; "
            "accumulate_batchnorm='micro' accepts that"
        )


def eval_params(state: State, frozen: Params) -> Params:
    """The parameters to evaluate: the moving average where there is one, else the trained ones,
    plus the frozen.
    """
    return merge(state["ema"] or state["params"], frozen)


def is_finite(loss: Array, gradient_norm: Array) -> Array:
    """bool[]: the loss and the gradient's global norm are finite."""
    return jnp.isfinite(loss) & jnp.isfinite(gradient_norm)

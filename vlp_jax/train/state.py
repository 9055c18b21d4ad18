"""The train state: one nested dict of arrays, born sharded.

Keys: step (int32[]), params (trained), frozen (no gradient), opt, extra, ema, skipped and
skipped_in_row (int32[]). The file exists so that checkpointing, sharding and the step agree on one
tree.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import merge, partition
from vlp_jax.core.types import Array, Params
from vlp_jax.methods.base import Method
from vlp_jax.parallel.sharding import param_sharding

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parts of a config that define the state and the step.

    Attributes:
      seed: of parameters and of every step's randomness.
      batch_size, accumulate: examples per step and micro-batches.
      freeze: path regexes without gradient, beside the method's own.
      ema_decay: 0 is off.
    """

    seed: int
    batch_size: int
    accumulate: int = 1
    freeze: tuple[str, ...] = ()
    ema_decay: float = 0.0


def init_state(method: Method, tx: optax.GradientTransformation, recipe: Recipe) -> State:
    """Fresh state; run it under jit with out_shardings, or `eval_shape` for its shapes.

    Raises:
      UserError: `freeze` leaves nothing to train, or one of its patterns matches no parameter.
    """
    spec = method.batch_spec(1)
    batch = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in spec.items()}
    params, extra = method.init(jax.random.key(recipe.seed), batch)
    for pattern in recipe.freeze:
        if not jax.tree.leaves(partition(params, (pattern,))[0]):
            raise UserError(
                f"freeze: {pattern!r} matches no parameter; paths start with {sorted(params)}"
            )
    frozen, trained = partition(params, (*method.frozen, *recipe.freeze))
    if not jax.tree.leaves(trained):
        raise UserError("freeze: every parameter is frozen, nothing is left to train")
    return {
        "step": jnp.int32(0),
        "params": trained,
        "frozen": frozen,
        "opt": tx.init(trained),
        "extra": extra,
        "ema": jax.tree.map(jnp.copy, trained) if recipe.ema_decay else {},
        "skipped": jnp.int32(0),
        "skipped_in_row": jnp.int32(0),
    }


def state_sharding(shapes: State, mesh: Mesh, preset: str) -> State:
    """NamedSharding of every leaf by the preset's rules (parallel/sharding.py)."""
    return param_sharding(shapes, mesh, preset)


def eval_params(state: State) -> Params:
    """The parameters to evaluate: the moving average where there is one, else the trained ones,
    plus the frozen.
    """
    return merge(state["ema"] or state["params"], state["frozen"])


def is_finite(loss: Array, gradient_norm: Array) -> Array:
    """bool[]: the loss and the gradient's global norm are finite."""
    return jnp.isfinite(loss) & jnp.isfinite(gradient_norm)

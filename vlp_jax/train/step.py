"""One training step as a pure function state, frozen, batch -> state, metrics (design section 6).

Order: fold the step into the seed, loss and gradient of trained and frozen parameters merged,
optax direction times -lr(step), the method's projection, EMA, follow, metrics; where there are
players, the first four for each phase in turn. A loss or gradient that is not finite, of any phase,
leaves everything but the counters bitwise as it was. The file exists so that every method, one
device or a pod, runs the same step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import merge
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.core.types import Array, Batch, Params
from vlp_jax.methods.base import Method
from vlp_jax.optim.schedules import Schedule
from vlp_jax.parallel.constrain import constrain_batch
from vlp_jax.train.state import Recipe, State
from vlp_jax.train.turns import Played, Rule, play

Step = Callable[[State, Params, Batch], tuple[State, dict[str, Array]]]


def _choose(finite: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def make_step(
    method: Method,
    tx: optax.GradientTransformationExtraArgs | Mapping[str, Any],
    schedule: Schedule | Mapping[str, Schedule],
    factors: Any,
    recipe: Recipe,
    phases: Sequence[str] | None = None,
) -> Step:
    """Builds the step.

    Args:
      method, tx, schedule, recipe: see their modules; of players {player: ...}, or one for all.
      factors: learning-rate factors with the structure of the trained parameters
        (optim.lr_factors).
      phases: names of those that are played (Method.playing); None: all.

    Returns:
      step(state, frozen, batch) -> (state, metrics); metrics hold loss, lr, grad_norm, skipped,
      skipped_in_row (scalars) and the method's own, of phases after the first PHASE_loss and so on
      too; grad_norm counts the weights that learn. To be jitted with the state donated and the
      frozen weights not.
    """
    rule = Rule(tx, schedule, factors, recipe.accumulate)
    played = tuple(
        phase.name for phase in method.phases() if phases is None or phase.name in phases
    )

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, dict[str, Array]]:
        number = state["step"]
        keys = constrain_batch(example_keys(step_key(recipe.seed, number), recipe.batch_size))
        rows = jnp.arange(recipe.batch_size)
        x = Inputs(batch, rows, keys, number, train=True, phases=played)
        x = x.replace(totals=method.totals(x))
        start = Played(state["params"], state["opt"], state["extra"], {}, jnp.bool_(True))
        params, opt, extra, metrics, finite = play(method, rule, frozen, x, start)
        params = _choose(finite, params, state["params"])
        v = Vars(merge(params, frozen), extra)
        extra = lay(method.follow(v, number + 1), extra)
        new = {
            "step": number + 1,
            "params": params,
            "opt": _choose(finite, opt, state["opt"]),
            "extra": _choose(finite, extra, state["extra"]),
            "ema": _choose(
                finite, _average(state["ema"], params, recipe.ema_decay, number), state["ema"]
            ),
            "skipped": state["skipped"] + ~finite,
            "skipped_in_row": jnp.where(finite, 0, state["skipped_in_row"] + 1),
        }
        counts = {name: new[name] for name in ("skipped", "skipped_in_row")}
        return new, {**metrics, **counts}

    return step


def _average(ema: Any, params: Any, decay: float, step: Array) -> Any:
    if not ema:
        return ema
    # Short memory first, so that the average forgets the random start (as in TensorFlow's
    # num_updates rule).
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: rate * e + (1 - rate) * p, ema, params)

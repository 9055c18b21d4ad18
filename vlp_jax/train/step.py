"""One training step as a pure function state, frozen, batch -> state, metrics (design section 6).

Order: fold the step into the seed, loss and gradient of trained and frozen parameters merged,
optax direction times -lr(step), the method's projection, EMA, follow, metrics. A loss or gradient
that is not finite leaves everything but the counters bitwise as it was. The file exists so that
every method, one device or a pod, runs the same step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlp_jax.core.inputs import Inputs, Vars, lay
from vlp_jax.core.pytree import merge
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.core.types import Array, Batch, Params
from vlp_jax.methods.base import Method
from vlp_jax.optim.optimizer import learning
from vlp_jax.optim.schedules import Schedule
from vlp_jax.parallel.constrain import constrain_batch
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import Recipe, State, is_finite

Step = Callable[[State, Params, Batch], tuple[State, dict[str, Array]]]


def _choose(finite: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def make_step(
    method: Method,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    factors: Any,
    recipe: Recipe,
) -> Step:
    """Builds the step.

    Args:
      method, tx, schedule, recipe: see their modules.
      factors: learning-rate factors with the structure of the trained parameters
        (optim.lr_factors).

    Returns:
      step(state, frozen, batch) -> (state, metrics); metrics hold loss, lr, grad_norm, skipped,
      skipped_in_row (scalars) and the method's own; grad_norm counts the weights that learn. To be
      jitted with the state donated and the frozen weights not.
    """

    def update(state: State, gradient: Any, lr: Array) -> tuple[Any, Any]:
        direction, opt = tx.update(gradient, state["opt"], state["params"], lr=lr)
        updates = jax.tree.map(lambda u, f: (-lr * f * u).astype(u.dtype), direction, factors)
        return method.project(optax.apply_updates(state["params"], updates)), opt

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, dict[str, Array]]:
        number = state["step"]
        keys = constrain_batch(example_keys(step_key(recipe.seed, number), recipe.batch_size))
        x = Inputs(batch, jnp.arange(recipe.batch_size), keys, number, train=True)
        x = x.replace(totals=method.totals(x))
        loss, aux, gradient = loss_and_gradient(
            method, state["params"], frozen, state["extra"], x, recipe.accumulate
        )
        gradient = learning(gradient, factors)
        norm = optax.tree.norm(gradient)
        finite = is_finite(loss, norm)
        lr = schedule(number)
        params, opt = update(state, gradient, lr)
        params = _choose(finite, params, state["params"])
        extra = lay(aux.extra, state["extra"])
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
        return new, {"loss": loss, "lr": lr, "grad_norm": norm, **aux.metrics, **counts}

    return step


def _average(ema: Any, params: Any, decay: float, step: Array) -> Any:
    if not ema:
        return ema
    # Short memory first, so that the average forgets the random start (as in TensorFlow's
    # num_updates rule).
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: rate * e + (1 - rate) * p, ema, params)

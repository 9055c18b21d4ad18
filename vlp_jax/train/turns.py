"""The turns of a training step: one update each, of all that learns or of one player's share.

A method without phases has one turn. The file exists so that a step with an order of players and
optimisers of their own (arXiv:1406.2661, Algorithm 1) is the same updates, one after the other.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from vlp_jax.core.inputs import Inputs, lay
from vlp_jax.core.pytree import merge
from vlp_jax.core.types import Array, Extra, Params
from vlp_jax.methods.base import Method, Phase
from vlp_jax.optim.optimizer import learning
from vlp_jax.optim.schedules import Schedule
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.state import is_finite, of_player

OWN = ("loss", "lr", "grad_norm")  # metrics of a turn that is not the first are called PHASE_loss


@dataclasses.dataclass(frozen=True)
class Rule:
    """How parameters move: the direction of a gradient, times -lr(step) and a factor each.

    Attributes:
      tx, schedule: of all, or {player: ...}.
      factors: learning-rate factors with the structure of the trained parameters
        (optim.lr_factors).
      accumulate: micro-batches.
    """

    tx: optax.GradientTransformationExtraArgs | Mapping[str, Any]
    schedule: Schedule | Mapping[str, Schedule]
    factors: Any
    accumulate: int

    def of(self, method: Method, player: str) -> "Rule":
        """A player's."""
        found = {name: of_player(getattr(self, name), player) for name in ("tx", "schedule")}
        return Rule(**found, factors=method.share_out(self.factors)[player],
                    accumulate=self.accumulate)  # fmt: skip


class Played(NamedTuple):
    """Where a step stands: what moves, the metrics of its turns, whether all was finite."""

    params: Params
    opt: Any
    extra: Extra
    metrics: dict[str, Array]
    finite: Array


def turn(stages: Any, rule: Rule, frozen: Params, x: Inputs, at: Played) -> Played:
    """An update of all of `at.params` by the loss of a method or phase, before the projection."""
    loss, aux, gradient = loss_and_gradient(stages, at.params, frozen, at.extra, x, rule.accumulate)
    gradient = learning(gradient, rule.factors)
    norm = optax.tree.norm(gradient)
    finite = is_finite(loss, norm)
    lr = rule.schedule(x.step)
    direction, opt = rule.tx.update(gradient, at.opt, at.params, lr=lr)
    updates = jax.tree.map(lambda u, f: (-lr * f * u).astype(u.dtype), direction, rule.factors)
    params = optax.apply_updates(at.params, updates)
    metrics = {"loss": loss, "lr": lr, "grad_norm": norm, **aux.metrics}
    return Played(params, opt, lay(aux.extra, at.extra), metrics, finite)


def play(method: Method, rule: Rule, frozen: Params, x: Inputs, at: Played) -> Played:
    """All turns of a step, but those of a player whose parameters are all frozen.

    Args:
      at: the state of the step's start.
    """
    if not method.players():
        after = turn(method, rule, frozen, x, at)
        return after._replace(params=method.project(after.params))
    plays = [phase for phase in method.phases() if phase.name in x.phases]
    for phase in (phase for phase in plays if phase.player in at.opt):
        after = _phase_turn(method, phase, rule, frozen, x, at)
        named = {f"{phase.name}_{k}" if at.metrics and k in OWN else k: m
                 for k, m in after.metrics.items()}  # fmt: skip
        at = after._replace(metrics={**at.metrics, **named}, finite=at.finite & after.finite)
    return at


def _phase_turn(
    method: Method, phase: Phase, rule: Rule, frozen: Params, x: Inputs, at: Played
) -> Played:
    """The turn of one player: everyone else's parameters are given, and run as in training."""
    shares = method.share_out(at.params)
    mine = shares.pop(phase.player)
    others = merge(*shares.values())
    stages = dataclasses.replace(
        phase, encode=_beside(others, phase.encode), objective=_beside(others, phase.objective)
    )
    before = at._replace(params=mine, opt=at.opt[phase.player])
    after = turn(stages, rule.of(method, phase.player), frozen, x, before)
    params = method.project(merge(after.params, others))
    return after._replace(params=params, opt={**at.opt, phase.player: after.opt})


def _beside(others: Params, stage: Callable) -> Callable:
    """A stage whose parameters lack those of `others`."""
    return lambda v, *args: stage(v._replace(params=merge(v.params, others)), *args)

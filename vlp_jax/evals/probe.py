"""Linear probe on frozen features (CLIP, arXiv:2103.00020 section 3.2 and appendix A.3).

Objective, as in scikit-learn with C = 1 / l2: sum of cross-entropies + l2 / 2 * |W|^2, the bias
free. Full batch, L-BFGS, l2 swept over 1e-6 ... 1e6 from coarse to 8 steps a decade on a validation
split, then refitted on train and val. The file exists because a probe trained by SGD measures the
schedule as much as the features.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax.core.errors import UserError
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalContext, EvalFn, Result, require_fns
from vlp_jax.evals.samples import (
    check_several,
    class_ids,
    class_names,
    embed_pictures,
    open_samples,
    read_values,
)
from vlp_jax.evals.scores import majority, per_class_recall

START = tuple(range(-6, 7, 2))  # log10 of l2: seven points, two decades apart
HALVINGS = 4  # 2 decades -> 1/8 decade
METRICS = ("top1", "mean_per_class")


class Fit(NamedTuple):
    """Logistic regression: weights float32[D, C], bias float32[C], and how the optimiser
    stopped."""

    weights: np.ndarray
    bias: np.ndarray
    loss: float  # objective divided by the number of samples
    gradient: float  # largest entry of its gradient, in the solver's coordinates
    iterations: int


@dataclasses.dataclass(frozen=True)
class Probe:
    """Config keys: train, val, path: labelled data sets (val '' = every 1 / val_fraction-th sample
    of train).

    label: JSON key. iterations: bound for each fit. limit: evenly spaced samples of each set (0 =
    all). features: the method's function that gives the rows; `pixels` is the baseline of raw
    pictures. metric: what l2 is chosen by, top1 or mean_per_class where classes differ in size.
    """

    context: EvalContext
    train: str | Source = ""
    val: str | Source = ""
    path: str | Source = ""
    label: str = ""
    val_fraction: float = 0.2
    iterations: int = 1000
    limit: int = 0
    features: str = "features"
    metric: str = "top1"

    @property
    def requires(self) -> tuple[str, ...]:
        """The function that `features` names."""
        return (self.features,)

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction <= 0.5 or self.iterations < 1:
            raise UserError("probe needs 0 < val_fraction <= 0.5 and iterations >= 1")
        if self.metric not in METRICS:
            raise UserError(f"probe.metric={self.metric!r}: choose {' or '.join(METRICS)}")

    def __call__(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics top1, mean_per_class, val_METRIC, log10_l2 and how the last fit ended."""
        require_fns(self, fns)
        fn = fns[self.features]
        sources = {
            "train": open_samples(self.train, self.limit),
            "path": open_samples(self.path, self.limit),
        }
        if self.val:
            sources["val"] = open_samples(self.val, self.limit)
        values = {part: read_values(source, self.label) for part, source in sources.items()}
        classes = class_names(values["train"])
        check_several(classes, self.label)
        label = {part: class_ids(v, classes, where=part) for part, v in values.items()}
        rows = {}
        for part, source in sources.items():
            rows[part], kept = embed_pictures(fn, source, self.context)
            label[part] = label[part][kept]
        if not self.val:
            split_validation(rows, label, self.val_fraction)
        curve = sweep(rows, label, len(classes), self.iterations, self.metric)
        log_l2 = max(curve, key=lambda point: (curve[point], point))  # a tie: the simpler one
        both = [np.concatenate([part["train"], part["val"]]) for part in (rows, label)]
        final = fit(*both, len(classes), 10.0**log_l2, self.iterations)
        metrics = {
            **scores(final, rows["path"], label["path"]),
            f"val_{self.metric}": curve[log_l2],
            "log10_l2": log_l2,
            "iterations": float(final.iterations),
            "gradient": final.gradient,
            "chance_top1": 1 / len(classes),
            "majority_top1": majority(label["path"]),
        }
        table = [{"log10 l2": point, f"val {self.metric}": curve[point]} for point in sorted(curve)]
        protocol = {part: len(v) for part, v in label.items()} | {
            "objective": "sum CE + l2/2 |W|^2"
        }
        return Result(metrics, {"sweep": table}, {"protocol": protocol})


def split_validation(rows: dict[str, Any], label: dict[str, Any], fraction: float) -> None:
    """Moves every (1 / fraction)-th sample of 'train' to 'val', by position; sorted data stays
    balanced."""
    position = np.arange(len(label["train"]))
    is_val = np.floor((position + 1) * fraction) > np.floor(position * fraction)
    if not is_val.any():
        raise UserError(f"probe: {len(is_val)} samples are too few to split off a validation set")
    for part in (rows, label):
        part["val"], part["train"] = part["train"][is_val], part["train"][~is_val]


def sweep(
    rows: Mapping[str, np.ndarray],
    label: Mapping[str, np.ndarray],
    num_classes: int,
    iterations: int,
    metric: str = "top1",
) -> dict[float, float]:
    """Validation score by log10(l2): seven points, then the interval around the best is halved four
    times."""
    curve: dict[float, float] = {}

    def visit(points: tuple[float, ...]) -> float:
        for point in points:
            if START[0] <= point <= START[-1]:
                fitted = fit(rows["train"], label["train"], num_classes, 10.0**point, iterations)
                curve[point] = scores(fitted, rows["val"], label["val"])[metric]
        return max(curve, key=lambda point: (curve[point], point))

    best, step = visit(tuple(map(float, START))), 2.0
    for _ in range(HALVINGS):
        step /= 2
        best = visit((best - step, best + step))
    return curve


def scores(fitted: Fit, rows: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """METRICS of float32[N, D] rows: the share of hits, and its mean over the classes in `label`,
    int[N]."""
    hit = predict(fitted, rows) == label
    recall, support = per_class_recall(hit, label, label.max() + 1)
    return dict(zip(METRICS, (float(hit.mean()), float(recall[support > 0].mean())), strict=True))


def predict(fitted: Fit, rows: np.ndarray) -> np.ndarray:
    """Most probable class: int[N]."""
    return (rows @ fitted.weights + fitted.bias).argmax(axis=1)


def fit(
    rows: np.ndarray, label: np.ndarray, num_classes: int, l2: float, iterations: int = 1000
) -> Fit:
    """Multinomial logistic regression of float32[N, D] rows on int[N] labels.

    Rows are centred and divided by one common scale and the penalty is adjusted: the optimum is the
    same one (the bias is free), the problem is far better conditioned for features with a large
    mean.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(np.mean((rows - mean) ** 2))) or 1.0
    x = ((rows - mean) / scale).astype(np.float32)
    penalty = np.float32(l2 / scale**2 / len(rows))
    args = jax.device_put((x, label.astype(np.int32), penalty))
    solved = jax.device_get(_solve(*args, num_classes=num_classes, iterations=iterations))
    weights, bias, loss, gradient, count = solved
    weights = weights.astype(np.float64) / scale
    bias = bias - mean @ weights
    return Fit(
        weights.astype(np.float32),
        bias.astype(np.float32),
        *map(float, (loss, gradient)),
        int(count),
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "iterations"))
def _solve(x, label, penalty, *, num_classes, iterations, tolerance=1e-6):
    def objective(params):
        weights, bias = params
        logits = jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST) + bias  # [N, C]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
        return loss + penalty / 2 * jnp.sum(weights**2)

    optimizer = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry):
        params, state, count, _ = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=objective
        )
        params = optax.apply_updates(params, updates)
        grad = optax.tree.get(state, "grad")  # at the new point, left by the line search
        return params, state, count + 1, jnp.maximum(*(jnp.max(jnp.abs(g)) for g in grad))

    def unfinished(carry):
        return (carry[2] < iterations) & (carry[3] > tolerance)

    start = (jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes))
    carry = (start, optimizer.init(start), jnp.int32(0), jnp.float32(jnp.inf))
    params, _, count, gradient = jax.lax.while_loop(unfinished, step, carry)
    return *params, objective(params), gradient, count

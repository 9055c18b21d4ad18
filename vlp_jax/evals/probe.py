"""Linear probe on frozen features (CLIP, arXiv:2103.00020 section 3.2 and appendix A.3).

Objective, as in scikit-learn with C = 1 / l2: sum of cross-entropies + l2 / 2 * |W|^2, the bias
free. Full batch, L-BFGS, l2 swept over 1e-6 ... 1e6 from coarse to 8 steps a decade on a validation
split, then refitted on train and val. Rows are turned to their principal axes first, which the
penalty does not see: of more features than samples only the span of the samples is left, and each
axis is stepped by its own curvature. The file exists because a probe trained by SGD measures the
schedule as much as the features.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax.core.errors import UserError
from vlp_jax.data.content import contents
from vlp_jax.data.source import Source
from vlp_jax.data.subset import stratified
from vlp_jax.evals.base import EvalFn, Learner, Result
from vlp_jax.evals.kits.samples import (
    check_labels,
    check_several,
    class_ids,
    class_names,
    embed_pictures,
    open_samples,
    read_values,
)
from vlp_jax.evals.kits.scores import majority, per_class_recall, sampling_error

START = tuple(range(-6, 7, 2))  # log10 of l2: seven points, two decades apart
HALVINGS = 4  # 2 decades -> 1/8 decade
METRICS = ("top1", "mean_per_class")
TURNED = 8192  # axes; turning more costs more than it saves
EPS = 1e-7  # of the largest variance: float32's own error, below it an axis is none


class Fit(NamedTuple):
    """Logistic regression: weights float32[D, C], bias float32[C], and how the optimiser
    stopped."""

    weights: np.ndarray
    bias: np.ndarray
    loss: float  # objective divided by the number of samples
    gradient: float  # largest entry of its gradient, in the solver's coordinates
    iterations: int


@dataclasses.dataclass(frozen=True)
class Probe(Learner):
    """Config keys: train, val, path: labelled data sets (val '' = val_fraction of every class of
    train, chosen by content).

    label: JSON key. iterations: bound for each fit. limit: so many samples of each set, by class (0
    = all). features: the method's function that gives the rows; `pixels` is the baseline of raw
    pictures. metric: what l2 is chosen by, top1 or mean_per_class where classes differ in size.
    """

    val: str | Source = ""
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

    def sets(self) -> dict[str, str | Source]:
        """train, val and path."""
        return {**super().sets(), "val": self.val}

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """All sets have the label."""
        check_labels(sources, self.label, where)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics top1, mean_per_class, their sampling errors top1_se, mean_per_class_se,
        val_METRIC, log10_l2 and how the last fit ended.
        """
        fn = fns[self.features]
        sources = {
            "train": open_samples(self.train, self.limit, self.label, cover=True),
            "path": open_samples(self.path, self.limit, self.label),
        }
        if self.val:
            sources["val"] = open_samples(self.val, self.limit, self.label)
        values = {part: read_values(source, self.label) for part, source in sources.items()}
        classes = class_names(values["train"])
        check_several(classes, self.label)
        label = {part: class_ids(v, classes, where=part) for part, v in values.items()}
        rows, kept = {}, {}
        for part, source in sources.items():
            rows[part], kept[part] = embed_pictures(fn, source, self.context)
            label[part] = label[part][kept[part]]
        if not self.val:
            content = contents(sources["train"], kept["train"])
            split_validation(rows, label, content, self.val_fraction)
        curve, best = sweep(rows, label, len(classes), self.iterations, self.metric)
        log_l2 = best_of(curve)
        both = (np.concatenate([part["train"], part["val"]]) for part in (rows, label))
        (final,) = fits(*both, len(classes), [10.0**log_l2], self.iterations, best)
        errors = sampling_error(predict(final, rows["path"]) == label["path"], label["path"])
        metrics = {
            **scores(final, rows["path"], label["path"]),
            **{f"{metric}_se": error for metric, error in zip(METRICS, errors, strict=True)},
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
        return Result(metrics, {"sweep": table}, details={"protocol": protocol})


def split_validation(
    rows: dict[str, Any], label: dict[str, Any], content: np.ndarray, fraction: float
) -> None:
    """Moves a fraction of every class from 'train' to 'val'; a class keeps at least one sample.

    Which ones, the pictures decide (content: uint64[N], see `data.content`), in whatever order they
    come.
    """
    total = len(label["train"])
    count = total - round(fraction * total)
    if count == total:
        raise UserError(f"probe: {total} samples are too few to split off a validation set")
    is_val = np.ones(total, bool)
    is_val[stratified(label["train"].tolist(), content, count, cover=True)] = False
    for part in (rows, label):
        part["val"], part["train"] = part["train"][is_val], part["train"][~is_val]


def sweep(
    rows: Mapping[str, np.ndarray],
    label: Mapping[str, np.ndarray],
    num_classes: int,
    iterations: int,
    metric: str = "top1",
) -> tuple[dict[float, float], Fit]:
    """Validation score by log10(l2), and the best fit: seven points, then the interval around the
    best is halved four times. Of equal scores the larger l2 is the better one.
    """
    curve: dict[float, float] = {}
    known: dict[float, Fit] = {}
    train = turned(rows["train"])

    def visit(points: Sequence[float], start: Fit | None = None) -> float:
        new = [point for point in points if START[0] <= point <= START[-1]]
        l2 = [10.0**point for point in new]
        found = fits(train, label["train"], num_classes, l2, iterations, start)
        for point, fitted in zip(new, found, strict=True):
            curve[point] = scores(fitted, rows["val"], label["val"])[metric]
            known[point] = fitted
        return best_of(curve)

    best, step = visit([*map(float, START)]), 2.0
    for _ in range(HALVINGS):
        step /= 2
        best = visit((best - step, best + step), known[best])
    return curve, known[best]


def best_of(curve: Mapping[float, float]) -> float:
    """The log10(l2) of the best score; of equal ones the largest, which is the simplest model."""
    return max(curve, key=lambda point: (curve[point], point))


def scores(fitted: Fit, rows: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """METRICS of float32[N, D] rows: the share of hits, and its mean over the classes in `label`,
    int[N]."""
    hit = predict(fitted, rows) == label
    recall, support = per_class_recall(hit, label, label.max() + 1)
    return dict(zip(METRICS, (float(hit.mean()), float(recall[support > 0].mean())), strict=True))


def predict(fitted: Fit, rows: np.ndarray) -> np.ndarray:
    """Most probable class: int[N]."""
    return (rows @ fitted.weights + fitted.bias).argmax(axis=1)


class Turned(NamedTuple):
    """Rows centred, divided by one scale and turned to principal axes: rows = x @ axes.T * scale +
    mean."""

    x: np.ndarray  # float32[N, R], R <= min(N, D)
    power: np.ndarray  # float32[R], mean squares of the columns
    axes: np.ndarray | None  # float32[D, R], orthonormal columns; None: the features themselves
    mean: np.ndarray  # float64[D]
    scale: float


def turned(rows: np.ndarray) -> Turned:
    """float32[N, D] rows on their principal axes.

    The optimum is the same one: the bias is free, and a penalty on |W|^2 sees neither a turn nor
    the axes in which no row differs, where its weights are 0.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(np.mean((rows - mean) ** 2))) or 1.0
    x = ((rows - mean) / scale).astype(np.float32)
    count, width = x.shape
    if min(x.shape) > TURNED:
        return Turned(x, np.mean(x**2, axis=0), None, mean, scale)
    gram = (x @ x.T if width > count else x.T @ x).astype(np.float64)
    power, vectors = np.linalg.eigh(gram)
    power = np.maximum(power, 1e-12)  # of rows that are all equal
    kept = power >= power[-1] * EPS
    power, vectors = power[kept], vectors[:, kept]
    if width > count:
        vectors = x.T @ (vectors / np.sqrt(power))
    axes = vectors.astype(np.float32)
    return Turned(x @ axes, (power / count).astype(np.float32), axes, mean, scale)


def fits(
    rows: np.ndarray | Turned,
    label: np.ndarray,
    num_classes: int,
    penalties: Sequence[float],
    iterations: int = 1000,
    start: Fit | None = None,
) -> list[Fit]:
    """Multinomial logistic regressions of float32[N, D] rows on int[N] labels, one for each l2 of
    `penalties`, by one program. start: a fit nearby, which saves iterations.
    """
    if not len(penalties):
        return []
    data = rows if isinstance(rows, Turned) else turned(rows)
    scaled = np.asarray(penalties) / data.scale**2 / len(data.x)
    first = (np.zeros((data.x.shape[1], num_classes)), np.zeros(num_classes))
    if start is not None:
        inner = start.weights if data.axes is None else data.axes.T @ start.weights
        first = (inner * data.scale, start.bias + data.mean @ start.weights)
    numbers = [np.asarray(a, np.float32) for a in (data.x, data.power, *first)]
    args = jax.device_put((label.astype(np.int32), *numbers))
    found = []
    for penalty in scaled.astype(np.float32):
        solved = jax.device_get(_solve(penalty, *args, iterations=iterations))
        weights, bias, loss, gradient, count = solved
        weights = (weights if data.axes is None else data.axes @ weights) / data.scale
        bias = bias - data.mean @ weights
        ended = (float(loss), float(gradient), int(count))
        found.append(Fit(weights.astype(np.float32), bias.astype(np.float32), *ended))
    return found


def fit(
    rows: np.ndarray, label: np.ndarray, num_classes: int, l2: float, iterations: int = 1000
) -> Fit:
    """One fit, see `fits`."""
    return fits(rows, label, num_classes, [l2], iterations)[0]


@functools.partial(jax.jit, static_argnames="iterations")
def _solve(penalty, label, x, power, weights, bias, *, iterations, tolerance=1e-6):
    # the loss bends by about power / C: weights are stepped in units of its inverse root
    unit = jax.lax.rsqrt(power / len(bias) + penalty)[:, None]

    def objective(params):
        weights = params[0] * unit
        logits = jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST) + params[1]
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

    start = (weights / unit, bias)
    carry = (start, optimizer.init(start), jnp.int32(0), jnp.float32(jnp.inf))
    params, _, count, gradient = jax.lax.while_loop(unfinished, step, carry)
    return params[0] * unit, params[1], objective(params), gradient, count

"""Optimisers from config: an optax direction, decoupled decay by path, then the learning rate of
the step.

The learning rate is applied outside optax as a function of the step, so a skipped update cannot
shift the schedule. Weights are stacked per layer, so masks and multipliers go by path, never by
number of axes. The file exists as that one place.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax.core.adapters import CONSTANT
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.pytree import check_matched, map_with_path, matches
from vlp_jax.core.schema import build

# Gains, biases, temperature and the class token: everything with at most one axis per layer
# (clip.md 4.2).
NO_DECAY = (r"(.*/)?(bias|scale|cls_token|probe|logit_scale|logit_bias)",)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The config's `optim`.

    Attributes:
      name: adamw, lion, adafactor, lars, lamb or sgd.
      lr: peak learning rate; schedule: see schedules.py; lr_final: floor as a share of the peak.
      lr_by_epoch: the rate changes at epochs only; lr_decay: factor per epoch of `exponential`.
      warmup_steps, warmup_examples, warmup_epochs: the last non-zero one counts.
      b1, b2, eps, momentum: of the chosen rule (momentum for sgd and lars).
      nesterov: Nesterov's form of sgd's momentum.
      lr_in_momentum: lars sums steps, lr x direction, not directions, as TensorFlow's and SimCLR's.
      weight_decay: decoupled; no_decay: path regexes that are left out.
      clip_norm: global gradient norm of the weights that learn; 0 is off.
      layer_decay: lr factor per layer from the head down (1 is off).
      train_blocks: only so many last blocks of every tower, and what follows them, learn; -1: all
        (partial fine-tuning, arXiv:2111.06377 Fig. 9).
      lr_groups: (path regex, factor) pairs, the first match counts.
      mu_dtype: dtype of the first moment.
      players: {player: {field: value}} of what players have otherwise (players.py).
    """

    name: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    lr_final: float = 0.0
    lr_by_epoch: bool = False
    lr_decay: float = 0.9
    warmup_steps: int = 0
    warmup_examples: int = 0
    warmup_epochs: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False
    lr_in_momentum: bool = False
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = NO_DECAY
    clip_norm: float = 1.0
    layer_decay: float = 1.0
    train_blocks: int = -1
    lr_groups: tuple[tuple[str, float], ...] = ()
    mu_dtype: str = "float32"
    players: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _adafactor(c: OptimConfig) -> optax.GradientTransformation:
    # big_vision's variant (arXiv:2106.04560 3.4): factored second moment, no relative step,
    # bfloat16-able momentum. A stack of vectors is no matrix: factored, layers would share moments.
    second = functools.partial(optax.scale_by_factored_rms, decay_rate=0.8)

    def vectors(params: Any) -> Any:
        return map_with_path(lambda path, _: matches(path, (r".*blocks/.*(bias|scale)",)), params)

    def others(params: Any) -> Any:
        return jax.tree.map(operator.not_, vectors(params))

    return optax.chain(
        optax.masked(second(factored=False), vectors),
        optax.masked(second(min_dim_size_to_factor=32), others),
        _per_layer(optax.clip_by_block_rms(1.0)),
        optax.ema(c.b1, debias=False, accumulator_dtype=c.mu_dtype),
    )


# What lies below the blocks of a tower, for layer-wise rates.
BELOW = ("stem", "norm_stem", "patch_embed", "token_embed", "pos_embed", "cls_token", "norm_pre")
FUSED = {"/qkv/": -2, "/key_value/": -2}  # several projections of the references in one leaf: axis

DIRECTIONS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps, mu_dtype=c.mu_dtype),
    "lion": lambda c: optax.scale_by_lion(c.b1, c.b2, mu_dtype=c.mu_dtype),
    "adafactor": _adafactor,
    "lamb": lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps, mu_dtype=c.mu_dtype),
    "lars": lambda c: optax.identity(),
    "sgd": lambda c: (
        optax.trace(c.momentum, nesterov=c.nesterov) if c.momentum else optax.identity()
    ),
}


def _sum_steps(momentum: float) -> optax.GradientTransformationExtraArgs:
    """v <- momentum v + lr u, handed on as v / lr, since the caller multiplies by lr; at lr 0
    nothing moves.
    """

    def update(updates: Any, state: Any, params: Any = None, *, lr: Any, **_: Any) -> tuple:
        del params
        lr = jnp.maximum(lr, 1e-30)
        trace = jax.tree.map(lambda v, u: momentum * v + lr * u, state.trace, updates)
        return jax.tree.map(lambda v: v / lr, trace), optax.TraceState(trace)

    return optax.GradientTransformationExtraArgs(optax.trace(momentum).init, update)


def _decay_mask(no_decay: tuple[str, ...]) -> Callable[[Any], Any]:
    return lambda params: map_with_path(lambda path, _: not matches(path, no_decay), params)


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation from gradients to a direction; the caller multiplies it by
    -lr(step), which `update` takes as `lr` too.

    Order: clip, direction, decay, trust ratio (LARS and LAMB: decayed leaves only; the others use
      ratio 1).

    Raises:
      UserError: unknown name or key.
    """
    c = build(OptimConfig, config, "optim")
    if c.name not in DIRECTIONS:
        raise UserError(f"optim.name: unknown {c.name!r}{nearest(c.name, DIRECTIONS)}")
    mask = _decay_mask(c.no_decay)
    steps = [optax.clip_by_global_norm(c.clip_norm)] if c.clip_norm else []
    steps.append(DIRECTIONS[c.name](c))
    steps.append(optax.add_decayed_weights(c.weight_decay, mask))
    if c.name in ("lars", "lamb"):
        coefficient = 0.001 if c.name == "lars" else 1.0  # arXiv:1708.03888, arXiv:1904.00962
        ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient)
        steps.append(optax.masked(_per_layer(ratio, apart=FUSED), mask))
    if c.name == "lars":
        steps.append((_sum_steps if c.lr_in_momentum else optax.trace)(c.momentum))
    return optax.with_extra_args_support(optax.chain(*steps))


def _per_layer(
    ratio: optax.GradientTransformation, apart: Mapping[str, int] = {}
) -> optax.GradientTransformation:
    """Applies a per-tensor rule to each layer of a stacked leaf (path .../blocks/...) on its own,
    and to each entry along an axis of the leaves whose path holds a name of `apart`.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def one(path: str, u: jax.Array, p: jax.Array) -> jax.Array:
            rule = lambda u, p: ratio.update(u, state, p)[0]  # noqa: E731
            for name, axis in apart.items():
                rule = jax.vmap(rule, axis, axis) if name in path else rule
            return jax.vmap(rule)(u, p) if "blocks/" in path and u.ndim else rule(u, p)

        return map_with_path_pair(one, updates, params), state

    return optax.GradientTransformation(ratio.init, update)


def map_with_path_pair(fn: Callable[..., Any], tree: Any, other: Any) -> Any:
    """Maps fn(path, leaf, other's leaf)."""
    flat = {}
    map_with_path(lambda path, leaf: flat.setdefault(path, leaf), other)
    return map_with_path(lambda path, leaf: fn(path, leaf, flat[path]), tree)


def check_paths(config: Mapping[str, Any], params: Any) -> None:
    """Refuses patterns of `lr_groups` and `no_decay` that match none of the parameters, trained or
    frozen; the default of `no_decay` may.

    Raises:
      UserError: names the key and the pattern.
    """
    c = build(OptimConfig, config, "optim")
    check_matched("optim.lr_groups", [pattern for pattern, _ in c.lr_groups], params)
    check_matched("optim.no_decay", [p for p in c.no_decay if p not in NO_DECAY], params)


def learning(gradient: Any, factors: Any) -> Any:
    """The gradient without weights whose learning rate is 0 (`lr_factors`), so that they count in
    no norm.
    """
    keep = lambda g, f: g if np.all(f) else jnp.where(np.equal(f, 0), 0, g)  # noqa: E731
    return jax.tree.map(keep, gradient, factors)


def lr_factors(config: Mapping[str, Any], params: Any) -> Any:
    """Per-leaf learning-rate factors from `lr_groups`, `layer_decay` and `train_blocks`; leaves
    broadcast against the parameters.

    Layer decay d gives block l of L the factor d^(L - l), embeddings d^(L + 1), everything after
    the blocks 1 (BEiT, arXiv:2106.08254; MAE's fine-tuning). Factor 0 leaves a weight bitwise as it
    is, weight decay included.
    """
    c = build(OptimConfig, config, "optim")

    def factor(path: str, leaf: jax.Array) -> np.ndarray | float:
        if matches(path, CONSTANT):  # of an adapter
            return 0.0
        group = next((value for pattern, value in c.lr_groups if matches(path, (pattern,))), 1.0)
        return group * _layer_factor(path, leaf.shape, c, depths)

    depths: dict[str, int] = {}
    if c.layer_decay != 1.0 or c.train_blocks >= 0:
        map_with_path(lambda path, leaf: _note_depth(depths, path, leaf.shape), params)
    if c.train_blocks > max(depths.values(), default=-1):
        most = f"at most {max(depths.values())}" if depths else "no ViT or text tower learns here"
        raise UserError(f"optim.train_blocks={c.train_blocks}: {most}")
    if c.layer_decay != 1.0 and not depths:
        raise UserError(f"optim.layer_decay={c.layer_decay}: no ViT or text tower learns here")
    return map_with_path(factor, params)


def _note_depth(depths: dict[str, int], path: str, shape: tuple[int, ...]) -> None:
    if "blocks/" in path:
        depths[path.split("blocks/")[0]] = shape[0]


def _layer_factor(
    path: str, shape: tuple[int, ...], c: OptimConfig, depths: dict[str, int]
) -> np.ndarray | float:
    tower = next((tower for tower in depths if path.startswith(tower)), None)
    if tower is None:
        return 1.0
    layers, rest = depths[tower], path[len(tower) :]
    if rest.startswith("blocks/"):
        above = np.arange(layers, 0, -1)  # blocks from this one on: L, ..., 1
    elif rest.startswith(BELOW):
        above = np.array(layers + 1)
    else:
        return 1.0
    learns = (above <= c.train_blocks) | (c.train_blocks < 0)
    factors = np.where(learns, np.float32(c.layer_decay) ** above, 0).astype(np.float32)
    return factors.reshape((-1,) + (1,) * (len(shape) - 1)) if factors.ndim else float(factors)

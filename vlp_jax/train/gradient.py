"""Loss and gradient of a global batch in K micro-batches.

The gradient is that of the batch where networks see one example at a time and the loss is a mean
over as many terms of every example, as in all methods here. It is not with BatchNorm, which sees
each micro-batch alone and moves its statistics K times (train/state.py refuses it unless told
otherwise), and would not be for a mean over unequal numbers, as of tokens.

Uncoupled losses average. Batch-coupled losses use gradient caching (arXiv:2101.06983): encode every
micro-batch without keeping activations, differentiate the objective at the full-batch
representations, then replay each encode with its own keys and pull those gradients back.
Micro-batch k holds rows k, k + K, k + 2K, ..., so every device keeps its own rows. The file exists
so that accumulation is one number and no method's concern.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array, Aux, Batch, Extra, Params
from vlp_jax.methods.base import Method, run


class Inputs(NamedTuple):
    """What one step feeds a method: extra state, the batch, one key per example, the step
    number.
    """

    extra: Extra
    batch: Batch
    rng: Array
    step: Array


def _micro(tree: Any, count: int, number: Array) -> Any:
    """Rows of micro-batch `number`, those r with r mod K = number. [B, ...] -> [B / K, ...]

    Sliced where it is used: split beforehand, the whole batch would be copied.
    """

    def rows(x: Array) -> Array:
        parts = x.reshape(-1, count, *x.shape[1:])  # [B / K, K, ...]
        return jax.lax.dynamic_index_in_dim(parts, number, axis=1, keepdims=False)

    return jax.tree.map(rows, tree)


def _join(tree: Any) -> Any:
    """[K, B / K, ...] -> [B, ...], the order that `_micro` takes apart."""
    return jax.tree.map(lambda x: rearrange(x, "k b ... -> (b k) ..."), tree)


def _mean(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.mean(0), tree)


def loss_and_gradient(
    method: Method, params: Params, frozen: Params, inputs: Inputs, accumulate: int
) -> tuple[Array, Aux, Params]:
    """Returns (float32[] loss, Aux(metrics, extra), gradient with the structure of `params`).

    Args:
      method: the method.
      params: trained parameters; frozen: the others, no gradient is taken.
      inputs: see Inputs.
      accumulate: K, divides the batch.
    """
    if accumulate == 1:

        def loss_fn(params: Params) -> tuple[Array, Aux]:
            batch, rng, step = inputs.batch, inputs.rng, inputs.step
            return run(method.loss, params, frozen, inputs.extra, batch, rng=rng, step=step)

        (loss, aux), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return loss, aux, gradient
    split = _cached if method.batch_coupled else _averaged
    return split(method, params, frozen, inputs, accumulate)


def _averaged(
    method: Method, params: Params, frozen: Params, inputs: Inputs, count: int
) -> tuple[Array, Aux, Params]:
    def body(carry: tuple, number: Array) -> tuple:
        extra, total = carry
        piece = Inputs(extra, *_micro((inputs.batch, inputs.rng), count, number), inputs.step)
        loss, aux, gradient = loss_and_gradient(method, params, frozen, piece, 1)
        return (aux.extra, jax.tree.map(jnp.add, total, gradient)), (loss, aux.metrics)

    zeros = jax.tree.map(jnp.zeros_like, params)
    start = (inputs.extra, zeros)
    (extra, total), (losses, metrics) = jax.lax.scan(body, start, jnp.arange(count))
    gradient = jax.tree.map(lambda g: g / count, total)
    return losses.mean(), Aux(_mean(metrics), extra), gradient


def _cached(
    method: Method, params: Params, frozen: Params, inputs: Inputs, count: int
) -> tuple[Array, Aux, Params]:
    def encode(params: Params, extra: Extra, number: Array) -> tuple[Any, Aux]:
        batch, rng = _micro((inputs.batch, inputs.rng), count, number)
        return run(method.encode, params, frozen, extra, batch, rng=rng, step=inputs.step)

    numbers = jnp.arange(count)
    cached = jax.lax.map(lambda number: encode(params, inputs.extra, number)[0], numbers)

    def objective(params: Params, representations: Any) -> tuple[Array, dict[str, Array]]:
        return run(method.objective, params, frozen, representations, inputs.batch)

    grad_fn = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (loss, metrics), (direct, cotangents) = grad_fn(params, _join(cached))

    def replay(carry: tuple, number: Array) -> tuple:
        extra, total = carry
        _, pull, aux = jax.vjp(lambda p: encode(p, extra, number), params, has_aux=True)
        pulled = pull(_micro(cotangents, count, number))[0]
        return (aux.extra, jax.tree.map(jnp.add, total, pulled)), aux.metrics

    (extra, gradient), encode_metrics = jax.lax.scan(replay, (inputs.extra, direct), numbers)
    return loss, Aux({**_mean(encode_metrics), **metrics}, extra), gradient

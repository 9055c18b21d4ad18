"""Loss and gradient of a global batch in K micro-batches, exact for every method.

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

from vlp_jax.core.pytree import merge
from vlp_jax.core.types import Array, Aux, Batch, Extra, Params
from vlp_jax.methods.base import Method


class Inputs(NamedTuple):
    """What one step feeds a method: extra state, the batch, one key per example, the step
    number.
    """

    extra: Extra
    batch: Batch
    rng: Array
    step: Array


def _split(tree: Any, count: int) -> Any:
    """[B, ...] -> [K, B / K, ...], row r to micro-batch r mod K."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), tree)


def _join(tree: Any) -> Any:
    """Inverse of `_split`."""
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
            return method.loss(merge(params, frozen), inputs.extra, batch, rng=rng, step=step)

        (loss, aux), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return loss, aux, gradient
    run = _cached if method.batch_coupled else _averaged
    return run(method, params, frozen, inputs, accumulate)


def _averaged(
    method: Method, params: Params, frozen: Params, inputs: Inputs, count: int
) -> tuple[Array, Aux, Params]:
    def body(carry: tuple, micro: tuple) -> tuple:
        extra, total = carry
        piece = Inputs(extra, *micro, inputs.step)
        loss, aux, gradient = loss_and_gradient(method, params, frozen, piece, 1)
        return (aux.extra, jax.tree.map(jnp.add, total, gradient)), (loss, aux.metrics)

    zeros = jax.tree.map(jnp.zeros_like, params)
    micros = _split((inputs.batch, inputs.rng), count)
    (extra, total), (losses, metrics) = jax.lax.scan(body, (inputs.extra, zeros), micros)
    gradient = jax.tree.map(lambda g: g / count, total)
    return losses.mean(), Aux(_mean(metrics), extra), gradient


def _cached(
    method: Method, params: Params, frozen: Params, inputs: Inputs, count: int
) -> tuple[Array, Aux, Params]:
    micros = _split((inputs.batch, inputs.rng), count)

    def encode(params: Params, extra: Extra, micro: tuple) -> tuple[Any, Aux]:
        batch, rng = micro
        return method.encode(merge(params, frozen), extra, batch, rng=rng, step=inputs.step)

    cached = jax.lax.map(lambda micro: encode(params, inputs.extra, micro)[0], micros)

    def objective(params: Params, representations: Any) -> tuple[Array, dict[str, Array]]:
        return method.objective(merge(params, frozen), representations, inputs.batch)

    grad_fn = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (loss, metrics), (direct, cotangents) = grad_fn(params, _join(cached))

    def replay(carry: tuple, piece: tuple) -> tuple:
        extra, total = carry
        micro, cotangent = piece
        _, pull, aux = jax.vjp(lambda p: encode(p, extra, micro), params, has_aux=True)
        return (aux.extra, jax.tree.map(jnp.add, total, pull(cotangent)[0])), aux.metrics

    pieces = (micros, _split(cotangents, count))
    (extra, gradient), encode_metrics = jax.lax.scan(replay, (inputs.extra, direct), pieces)
    return loss, Aux({**_mean(encode_metrics), **metrics}, extra), gradient

"""Loss and gradient of a global batch in K micro-batches, equal for every K.

Losses and metrics of micro-batches are shares of the whole (sums over `totals` of the whole batch)
and add up, so unequal numbers of terms, as of tokens, bias nothing. Every micro-batch sees the
extra state of the step's start; what they change of it is averaged, so whole numbers are refused
there. BatchNorm alone sees each micro-batch by itself (train/state.py refuses it unless told
otherwise).

Coupled losses use gradient caching (arXiv:2101.06983): encode every micro-batch without keeping
activations, differentiate the objective at the rows of the full batch, then replay each encode with
its own keys and pull those gradients back. A second stage (Method.match) lies between: it is
replayed first, and what it pulls back to the rows of others is added to theirs. Micro-batch k holds
rows k, k + K, k + 2K, ..., so every device keeps its own rows. The file exists so that accumulation
is one number and no method's concern.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.inputs import Aux, Inputs, over
from vlp_jax.core.pytree import map_with_path
from vlp_jax.core.types import Array, Extra, Params
from vlp_jax.methods.base import Method, run


def _micro(tree: Any, count: int, number: Array) -> Any:
    """Rows of micro-batch `number`, those r with r mod K = number. [B, ...] -> [B / K, ...]

    Sliced where it is used: split beforehand, the whole batch would be copied.
    """

    def rows(x: Array) -> Array:
        parts = x.reshape(-1, count, *x.shape[1:])  # [B / K, K, ...]
        return jax.lax.dynamic_index_in_dim(parts, number, axis=1, keepdims=False)

    return jax.tree.map(rows, tree)


def _piece(x: Inputs, count: int, number: Array) -> Inputs:
    """A micro-batch; step and totals stay those of the whole."""
    batch, index, rng = _micro((x.batch, x.index, x.rng), count, number)
    return x.replace(batch=batch, index=index, rng=rng)


def _join(tree: Any) -> Any:
    """[K, B / K, ...] -> [B, ...], the order that `_micro` takes apart."""
    return jax.tree.map(lambda x: rearrange(x, "k b ... -> (b k) ..."), tree)


def _mean(extra: Extra) -> Extra:
    """The mean of what micro-batches make of extra state. [K, ...] -> [...]

    Raises:
      TypeError: names an entry that has no mean (whole numbers, truth values, keys).
    """

    def mean(path: str, x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            why = f"{x.dtype} that micro-batches change has no mean"
            raise TypeError(f"extra state {path}: {why}; count in follow, or change a float")
        return x.mean(0).astype(x.dtype)

    return map_with_path(mean, extra)


def _sum(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sum(0), tree)


def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def loss_and_gradient(
    method: Method, params: Params, frozen: Params, extra: Extra, x: Inputs, accumulate: int
) -> tuple[Array, Aux, Params]:
    """Returns (float32[] loss, Aux(metrics, entries of extra that changed), gradient with the
    structure of `params`).

    Args:
      method: the method.
      params: trained parameters; frozen: the others, no gradient is taken.
      extra: state of the step's start.
      x: the whole batch.
      accumulate: K, divides the batch.
    """
    if accumulate == 1:
        loss_fn = lambda params: run(method.loss, params, frozen, extra, x)  # noqa: E731
        (loss, aux), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return loss, aux, gradient
    split = _cached if method.coupled else _shared
    return split(method, params, frozen, extra, x, accumulate)


def _shared(
    method: Method, params: Params, frozen: Params, extra: Extra, x: Inputs, count: int
) -> tuple[Array, Aux, Params]:
    def body(total: tuple, number: Array) -> tuple:
        piece = _piece(x, count, number)
        loss, aux, gradient = loss_and_gradient(method, params, frozen, extra, piece, 1)
        return _add(total, (loss, gradient)), aux

    start = jnp.float32(0), jax.tree.map(jnp.zeros_like, params)
    (loss, gradient), aux = jax.lax.scan(body, start, jnp.arange(count))
    return loss, Aux(_sum(aux.metrics), _mean(aux.extra)), gradient


def _cached(
    method: Method, params: Params, frozen: Params, extra: Extra, x: Inputs, count: int
) -> tuple[Array, Aux, Params]:
    matches = method.match is not None

    def encode(params: Params, number: Array) -> tuple[Any, Aux]:
        return run(method.encode, params, frozen, extra, _piece(x, count, number))

    def match(given: tuple[Params, list[Array]], number: Array) -> tuple[Any, Aux]:
        params, whole = given[0], back(given[1])
        mine = _micro(whole, count, number)
        return run(method.match, params, frozen, extra, mine, whole, _piece(x, count, number))

    def objective(params: Params, real: list[Array], more: list[Array]) -> tuple[Array, Aux]:
        rows = {**back(real), **back_more(more)} if matches else back(real)
        return run(method.objective, params, frozen, extra, rows, x)

    real, back = _split(_every(encode, params, count))
    more, back_more = _split(_every(match, (params, real), count) if matches else {})
    grad_fn = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
    (loss, aux), (direct, at_rows, at_more) = grad_fn(params, real, more)
    if matches:
        start = direct, at_rows
        (direct, at_rows), later = _replay(match, (params, real), at_more, start, count)
        aux = over(aux, later)
    gradient, first = _replay(encode, params, at_rows, direct, count)
    return loss, over(aux, first), gradient


def _every(stage: Callable, given: Any, count: int) -> Any:
    """The rows that a stage makes of all micro-batches, in the order of the whole batch."""
    return _join(jax.lax.map(lambda number: stage(given, number)[0], jnp.arange(count)))


def _replay(
    stage: Callable, given: Any, cotangents: list[Array], start: Any, count: int
) -> tuple[Any, Aux]:
    """Pulls gradients at a stage's rows back to what it was given, micro-batch by micro-batch.

    Args:
      stage: f(given, number) -> (rows, Aux).
      cotangents: of the real leaves of its rows, [B, ...].
      start: what the sum starts from, like `given`.

    Returns:
      (start + the gradient with respect to `given`, Aux of all micro-batches).
    """

    def body(total: Any, number: Array) -> tuple:
        def made(given: Any) -> tuple[list[Array], Aux]:
            rows, aux = stage(given, number)
            return _split(rows)[0], aux

        _, pull, aux = jax.vjp(made, given, has_aux=True)
        return _add(total, pull(_micro(cotangents, count, number))[0]), aux

    total, aux = jax.lax.scan(body, start, jnp.arange(count))
    return total, Aux(_sum(aux.metrics), _mean(aux.extra))


def _split(rows: Any) -> tuple[list[Array], Any]:
    """Leaves with a gradient, and a function that puts them back among the others: integers (ids,
    masks) carry none.
    """
    leaves, tree = jax.tree.flatten(rows)
    is_real = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def back(real: list[Array]) -> Any:
        given = iter(real)
        pairs = zip(leaves, is_real, strict=True)
        return tree.unflatten([next(given) if yes else leaf for leaf, yes in pairs])

    return [leaf for leaf, yes in zip(leaves, is_real, strict=True) if yes], back

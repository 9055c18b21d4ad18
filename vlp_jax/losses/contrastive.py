"""Contrastive losses over the global batch: softmax (CLIP, arXiv:2103.00020; ALBEF and BLIP with
queues and soft targets, arXiv:2107.07651), sigmoid (SigLIP, arXiv:2303.15343).

Arguments are whole-batch arrays, sharded or not; value and gradient do not depend on the devices,
and nothing of size B x B is ever held (losses/tiles.py). The file exists to say each loss as the
positives, which are linear in B, and statistics of the negatives.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.losses.tiles import Sides, log_sums, softplus_sums
from vlp_jax.parallel.collectives import SPLIT, WHOLE, BatchAxes, over_batch

Metrics = dict[str, Array]


class Teacher(NamedTuple):
    """Soft targets: (1 - weight) x one-hot + weight x softmax(scale x query . key), no gradient.

    query: float[B, E]; key: float[B, E], for the targets of the other direction too; scale:
    float[], exponentiated; weight: in [0, 1] (ALBEF section 3.4: 0.4).
    """

    query: Array
    key: Array
    scale: Array
    weight: float | Array


def _positive(x: Array, y: Array) -> Array:
    """x_i . y_i, or its maximum over queries. [B, E] or [B, Q, E], [B, E] -> float32[B]"""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return (x * y).sum(-1) if x.ndim == 2 else (x * y[:, None]).sum(-1).max(1)


def _scaled(x: Array, logit_scale: Array) -> Array:
    return (x.astype(jnp.float32) * jnp.exp(logit_scale)).astype(x.dtype)


def _ids(duplicates: Array | None, size: int) -> Array:
    """Equal ids are no negatives; without any, only a pair itself is none."""
    return jnp.arange(size, dtype=jnp.int32) if duplicates is None else duplicates


def _hits(positive: Array, others: Array) -> Array:
    """Share of positives above every negative; a tie is a miss."""
    return jnp.mean(positive > others)


def softmax_contrastive(
    image: Array,
    text: Array,
    logit_scale: Array,
    *,
    duplicates: Array | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Array, Metrics]:
    """Symmetric InfoNCE: the mean of both cross-entropies with the diagonal as target.

    Args:
      image: float[B, E], unit norm, or float[B, Q, E]: the best of Q queries counts (BLIP-2,
        arXiv:2301.12597 section 3.2).
      text: float[B, E], unit norm; row i belongs to picture i.
      logit_scale: float[], ln(1 / temperature); exponentiated here.
      duplicates: int32[B]; pairs i, j with equal numbers are no negatives of each other.
      label_smoothing: share of the target spread over the whole batch.

    Returns:
      (float32[] loss, ln B at chance; metrics i2t_accuracy, t2i_accuracy in [0, 1]: the positive
      above every negative, and under smoothing unsmoothed_loss).
    """
    image, ids = _scaled(image, logit_scale), _ids(duplicates, len(text))
    positive = _positive(image, text)
    negative = log_sums(Sides(image, text, ids, ids))
    # lse(negatives and positive) - positive, without cancellation where the positive dominates
    rows, columns = (jax.nn.softplus(n - positive) for n in (negative.row, negative.column))
    loss, smoothed = jnp.mean(0.5 * (rows + columns)), {}
    if label_smoothing:
        smoothed = {"unsmoothed_loss": loss}
        if image.ndim == 2:
            mean = _positive(image.mean(0, keepdims=True), text.mean(0, keepdims=True))[0]
        else:
            mean = jnp.mean(negative.row_sum) / len(text)
        loss += label_smoothing * (positive.mean() - mean)
    accuracy = [_hits(positive, n) for n in (negative.row_max, negative.column_max)]
    return loss, {"i2t_accuracy": accuracy[0], "t2i_accuracy": accuracy[1], **smoothed}


def multi_positive_contrastive(
    image: Array, text: Array, logit_scale: Array, labels: Array, label_smoothing: float = 0.0
) -> tuple[Array, Metrics]:
    """Symmetric InfoNCE whose target is uniform over all pairs of one label (UniCL,
    arXiv:2204.03610; SupCon, arXiv:2004.11362, "out" form).

    Args:
      image, text, logit_scale, label_smoothing: as in `softmax_contrastive`.
      labels: int[B], any numbers.

    Returns:
      (float32[] loss, {}).
    """
    image = _scaled(image, logit_scale)
    sums = log_sums(Sides(image, text))
    if image.ndim == 3:
        target, mean = _own_mean(image, text, labels), sums.row_sum / len(text)
    else:
        group = jnp.searchsorted(jnp.sort(labels), labels)  # one number in [0, B) per label
        total = lambda x: jax.ops.segment_sum(x, group, len(labels))  # noqa: E731
        own = (
            total(text.astype(jnp.float32)) / jnp.maximum(total(jnp.ones(len(labels))), 1)[:, None]
        )
        # Each row and column mean over its label is a row of the same block mean.
        target, mean = _positive(image, own[group]), _positive(image, text.mean(0, keepdims=True))
    loss = jnp.mean(0.5 * (sums.row + sums.column) - target)
    return loss + label_smoothing * jnp.mean(target - mean), {}


def _own_mean(image: Array, text: Array, labels: Array) -> Array:
    """The mean logit of the best query with every text of a row's label. [B, Q, E] -> float32[B]"""

    def run(axes: BatchAxes, image: Array, mine: Array, text: Array, all_of: Array) -> Array:
        del axes

        @jax.checkpoint
        def one(row: tuple[Array, Array]) -> Array:
            same = row[1] == all_of
            return jnp.where(same, (row[0] @ text.T).max(0), 0).sum() / same.sum()

        return jax.lax.map(one, (image, mine), batch_size=64)

    image, text = (a.astype(jnp.float32) for a in (image, text))
    return over_batch(run, (SPLIT, SPLIT, WHOLE, WHOLE), SPLIT)(image, labels, text, labels)


def info_nce(
    query: Array,
    key: Array,
    logit_scale: Array,
    *,
    ids: tuple[Array, Array] | None = None,
    labels: tuple[Array, Array] | None = None,
    queue: Array | None = None,
    teacher: Teacher | None = None,
) -> tuple[Array, Metrics]:
    """One direction: cross-entropy of every query over the keys of the whole batch and a queue.

    Args:
      query, key: float[B, E], unit norm; key i belongs to query i.
      logit_scale: float[]; exponentiated here.
      ids: int32[B] of queries and int32[B + K] of keys, then queue: pairs with equal ids are no
        negatives; query i and key i must have the same.
      labels: int32[B] and int32[B + K] in the same way, but the one-hot target becomes uniform over
        all keys of the query's label (ALBEF's and BLIP's fine-tuning for retrieval).
      queue: float[K, E], further negatives without gradient (MoCo, arXiv:1911.05722), the same on
        every device.
      teacher: soft targets; its `key` covers batch and queue: float[B + K, E].

    Returns:
      (float32[] loss; metrics {accuracy}: the positive above every negative; under labels the
      nearest key is one of the label).

    Raises:
      TypeError: both ids and labels.
    """
    query = _scaled(query, logit_scale)
    if labels is not None:
        if ids is not None:
            raise TypeError("info_nce: ids and labels exclude each other")
        return _labelled(query, key, labels, queue, teacher)
    count = len(key) + (0 if queue is None else len(queue))
    own = jnp.arange(count, dtype=jnp.int32)
    row_ids, column_ids = (own[: len(key)], own) if ids is None else ids
    positive = _positive(query, key)
    negative = log_sums(Sides(query, key, row_ids, column_ids, queue))
    loss = jnp.mean(jax.nn.softplus(negative.row - positive))
    if teacher is not None:
        mean = soft_mean(teacher, _with_queue(key, queue))
        loss += jnp.mean(teacher.weight * (positive - _positive(query, mean)))
    return loss, {"accuracy": _hits(positive, negative.row_max)}


def _with_queue(key: Array, queue: Array | None) -> Array:
    return key if queue is None else jnp.concatenate([key, jax.lax.stop_gradient(queue)])


def _labelled(
    query: Array,
    key: Array,
    labels: tuple[Array, Array],
    queue: Array | None,
    teacher: Teacher | None,
) -> tuple[Array, Metrics]:
    """`info_nce` with labels, of queries that are scaled."""
    keys = _with_queue(key, queue)

    def run(axes: BatchAxes, query: Array, mine: Array, keys: Array, all_of: Array) -> tuple:
        del axes

        @jax.checkpoint
        def one(row: tuple[Array, Array]) -> tuple[Array, Array]:
            same = row[1] == all_of
            best = jnp.where(same, keys @ row[0], -jnp.inf).max()
            return same / same.sum() @ keys, jax.lax.stop_gradient(best)

        return jax.lax.map(one, (query, mine), batch_size=64)

    specs = (SPLIT, SPLIT, WHOLE, WHOLE), (SPLIT, SPLIT)
    wide = (a.astype(jnp.float32) for a in (query, keys))
    mean, best = over_batch(run, *specs)(next(wide), labels[0], next(wide), labels[1])
    if teacher is not None:
        mean += teacher.weight * (soft_mean(teacher, keys) - mean)
    sums = log_sums(Sides(query, key, queue=queue))
    # a sum in another order than the tiles' may differ in its last bits
    hit = jnp.mean(best >= sums.row_max - 1e-6 * jnp.abs(sums.row_max))
    return jnp.mean(sums.row - _positive(query, mean)), {"accuracy": hit}


def nt_xent(views: Array, logit_scale: Array) -> tuple[Array, Metrics]:
    """NT-Xent of SimCLR (arXiv:2002.05709, equation 1): each view finds its partner among all
    others.

    Args:
      views: float[B, E], unit norm; rows i and i + B / 2 (mod B) show the same picture.
      logit_scale: float[], ln(1 / temperature); exponentiated here.

    Returns:
      (float32[] loss, ln(B - 1) at chance; metrics {accuracy}: the partner is the nearest).
    """
    half = len(views) // 2
    ids = jnp.arange(len(views), dtype=jnp.int32) % half  # a view and its partner are no negatives
    scaled = _scaled(views, logit_scale)
    positive = _positive(scaled, jnp.roll(views, half, axis=0))
    negative = log_sums(Sides(scaled, views, ids, ids))
    loss = jnp.mean(jax.nn.softplus(negative.row - positive))
    return loss, {"accuracy": _hits(positive, negative.row_max)}


def soft_mean(teacher: Teacher, values: Array, rows: int = 64) -> Array:
    """softmax(scale x query . key) @ values, a few rows at a time. float[B, E], [C, E] -> [B, E]"""
    teacher = jax.lax.stop_gradient(teacher)

    def run(axes: BatchAxes, query: Array, key: Array, values: Array) -> Array:
        del axes

        @jax.checkpoint
        def mean(row: Array) -> Array:
            weights = jax.nn.softmax(teacher.scale * (key @ row))
            return weights @ values.astype(jnp.float32)

        return jax.lax.map(mean, query, batch_size=rows)

    parts = (a.astype(jnp.float32) for a in (teacher.query, teacher.key, values))
    return over_batch(run, (SPLIT, WHOLE, WHOLE), SPLIT)(*parts)


def sigmoid_contrastive(
    image: Array,
    text: Array,
    logit_scale: Array,
    logit_bias: Array,
    *,
    duplicates: Array | None = None,
) -> tuple[Array, Metrics]:
    """Pairwise logistic loss: -1/B sum_ij log sigmoid(y_ij (exp(s) x_i . t_j + b)), y = +1 on the
    diagonal, else -1.

    Args:
      image: float[B, E], unit norm.
      text: float[B, E], unit norm; row i belongs to picture i.
      logit_scale: float[], ln of the scale (initially ln 10).
      logit_bias: float[], initially -10.
      duplicates: int32[B]; pairs i, j with equal numbers do not count.

    Returns:
      (float32[] loss; metrics i2t_accuracy, t2i_accuracy in [0, 1]: the positive above every
      negative).
    """
    image, ids = _scaled(image, logit_scale), _ids(duplicates, len(text))
    positive = _positive(image, text)
    sums, row_max, column_max = softplus_sums(Sides(image, text, ids, ids), logit_bias)
    loss = jnp.mean(sums + jax.nn.softplus(-positive - logit_bias))
    accuracy = {"i2t": _hits(positive, row_max), "t2i": _hits(positive, column_max)}
    return loss, {f"{name}_accuracy": value for name, value in accuracy.items()}

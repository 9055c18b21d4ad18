"""Contrastive losses against dense float64 forms: value, gradient, any tile, 1 to 8 devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from vlp_jax.losses import tiles
from vlp_jax.losses.contrastive import (
    Teacher,
    info_nce,
    multi_positive_contrastive,
    nt_xent,
    sigmoid_contrastive,
    softmax_contrastive,
)
from vlp_jax.parallel.mesh import BATCH_SPEC, make_mesh

B, E, Q, K = 16, 8, 3, 10
IDS = np.int32([5, 7, 7, 1, 2, 3, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17])
KEY_IDS = np.arange(B + K, dtype=np.int32)
KEY_IDS[B + 2] = 3  # a queue entry of the same picture as row 3
LABELS = np.int32([0, 1, 1, 2, 2, 2, 3, 4, 5, 5, -6, 7, 8, 8, 9, 10])
QUEUED = np.append(LABELS, np.int32([2, 2, 5, -100, -100, 11, 12, 13, 14, 15]))
SMOOTH = 0.1


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@functools.cache
def inputs():
    draw = np.random.default_rng(0).normal
    shapes = {"x": (B, E), "q": (B, Q, E), "y": (B, E), "queue": (K, E), "xm": (B, E)}
    arrays = {name: unit(draw(size=shape)) for name, shape in shapes.items()}
    return {**arrays, "km": unit(draw(size=(B + K, E))), "s": np.log(20.0), "b": -3.0}


def dense(x, y, s):
    """Logits [B, C] in the precision of the arguments."""
    return jnp.exp(s) * jnp.einsum("...e,ce->...c", x, y)


def cross_entropy(logits, targets, hide=None):
    if hide is not None:
        logits = jnp.where(hide, -jnp.inf, logits)
    log_p = jax.nn.log_softmax(logits, axis=1)
    return -jnp.where(targets > 0, targets * log_p, 0).sum(1).mean()


def both(logits, targets, hide=None):
    columns = cross_entropy(logits.T, targets.T, None if hide is None else hide.T)
    return 0.5 * (cross_entropy(logits, targets, hide) + columns)


def equal(a, b=None):
    return a[:, None] == (a if b is None else b)


def softmax_dense(a):
    return both(dense(a["x"], a["y"], a["s"]), jnp.eye(B))


def duplicates_dense(a):
    return both(dense(a["x"], a["y"], a["s"]), jnp.eye(B), equal(IDS) & ~np.eye(B, dtype=bool))


def smooth_dense(a):
    targets = (1 - SMOOTH) * jnp.eye(B) + SMOOTH / B
    return both(dense(a["x"], a["y"], a["s"]), targets)


def queries_dense(a):
    targets = (1 - SMOOTH) * jnp.eye(B) + SMOOTH / B
    return both(dense(a["q"], a["y"], a["s"]).max(1), targets)


def labels_dense(a):
    targets = equal(LABELS) / equal(LABELS).sum(1, keepdims=True)
    return both(dense(a["x"], a["y"], a["s"]), targets)


def labelled_queries_dense(a):
    targets = (1 - SMOOTH) * equal(LABELS) / equal(LABELS).sum(1, keepdims=True) + SMOOTH / B
    return both(dense(a["q"], a["y"], a["s"]).max(1), targets)


def queue_dense(a):
    keys = jnp.concatenate([a["y"], jax.lax.stop_gradient(a["queue"])])
    hide = equal(np.arange(B), KEY_IDS) & ~np.eye(B, B + K, dtype=bool)
    return cross_entropy(dense(a["x"], keys, a["s"]), jnp.eye(B, B + K), hide)


def teacher_dense(a):
    keys = jnp.concatenate([a["y"], jax.lax.stop_gradient(a["queue"])])
    soft = jax.lax.stop_gradient(jax.nn.softmax(9.0 * a["xm"] @ a["km"].T))
    targets = 0.6 * jnp.eye(B, B + K) + 0.4 * soft
    return cross_entropy(dense(a["x"], keys, a["s"]), targets)


def labelled_dense(a):
    keys = jnp.concatenate([a["y"], jax.lax.stop_gradient(a["queue"])])
    soft = jax.lax.stop_gradient(jax.nn.softmax(9.0 * a["xm"] @ a["km"].T))
    same = equal(LABELS, QUEUED).astype(float)
    targets = 0.6 * same / same.sum(1, keepdims=True) + 0.4 * soft
    return cross_entropy(dense(a["x"], keys, a["s"]), targets)


def views_dense(a):
    """NT-Xent of the rows x and y as two views: no view is its own negative."""
    z = jnp.concatenate([a["x"], a["y"]])
    return cross_entropy(
        dense(z, z, a["s"]), jnp.eye(2 * B)[(np.arange(2 * B) + B) % (2 * B)], np.eye(2 * B) > 0
    )


def sigmoid_dense(a, hide=None):
    logits = dense(a["x"], a["y"], a["s"]) + a["b"]
    terms = jax.nn.softplus(-(2 * jnp.eye(B) - 1) * logits)
    return (terms if hide is None else jnp.where(hide, 0, terms)).sum() / B


def sigmoid_duplicates_dense(a):
    return sigmoid_dense(a, equal(IDS) & ~np.eye(B, dtype=bool))


CASES = {
    "softmax": (softmax_dense, lambda a: softmax_contrastive(a["x"], a["y"], a["s"])[0]),
    "duplicates": (
        duplicates_dense,
        lambda a: softmax_contrastive(a["x"], a["y"], a["s"], duplicates=IDS)[0],
    ),
    "smoothing": (
        smooth_dense,
        lambda a: softmax_contrastive(a["x"], a["y"], a["s"], label_smoothing=SMOOTH)[0],
    ),
    "queries": (
        queries_dense,
        lambda a: softmax_contrastive(a["q"], a["y"], a["s"], label_smoothing=SMOOTH)[0],
    ),
    "labels": (
        labels_dense,
        lambda a: multi_positive_contrastive(a["x"], a["y"], a["s"], LABELS)[0],
    ),
    "labelled queries": (
        labelled_queries_dense,
        lambda a: multi_positive_contrastive(a["q"], a["y"], a["s"], LABELS, SMOOTH)[0],
    ),
    "queue": (
        queue_dense,
        lambda a: info_nce(a["x"], a["y"], a["s"], queue=a["queue"], ids=(KEY_IDS[:B], KEY_IDS))[0],
    ),
    "teacher": (
        teacher_dense,
        lambda a: info_nce(
            *(a["x"], a["y"], a["s"]),
            queue=a["queue"],
            teacher=Teacher(a["xm"], a["km"], 9.0, 0.4),
        )[0],
    ),
    "labelled queue": (
        labelled_dense,
        lambda a: info_nce(
            *(a["x"], a["y"], a["s"]),
            labels=(LABELS, QUEUED),
            queue=a["queue"],
            teacher=Teacher(a["xm"], a["km"], 9.0, 0.4),
        )[0],
    ),
    "views": (views_dense, lambda a: nt_xent(jnp.concatenate([a["x"], a["y"]]), a["s"])[0]),
    "sigmoid": (sigmoid_dense, lambda a: sigmoid_contrastive(a["x"], a["y"], a["s"], a["b"])[0]),
    "sigmoid duplicates": (
        sigmoid_duplicates_dense,
        lambda a: sigmoid_contrastive(a["x"], a["y"], a["s"], a["b"], duplicates=IDS)[0],
    ),
}


@functools.cache
def exact(name):
    with jax.enable_x64(True):
        arrays = {key: jnp.float64(value) for key, value in inputs().items()}
        value, gradient = jax.value_and_grad(CASES[name][0])(arrays)
        return float(value), {key: np.asarray(g) for key, g in gradient.items()}


@pytest.mark.parametrize(("devices", "tile"), [(1, 5), (1, 4), (2, 3), (8, 7)])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name, devices, tile, monkeypatch):
    monkeypatch.setattr(tiles, "tile_length", lambda rows, columns: tile or columns)
    arrays = {key: np.float32(value) for key, value in inputs().items()}
    mesh = make_mesh({"data": -1}, jax.devices()[:devices])
    split = NamedSharding(mesh, BATCH_SPEC)
    arrays = {k: jax.device_put(a, split) if len(a.shape or [0]) > 1 and len(a) == B else a
              for k, a in arrays.items()}  # fmt: skip
    with jax.set_mesh(mesh):
        value, gradient = jax.jit(jax.value_and_grad(lambda a: CASES[name][1](a)))(arrays)
    wanted, exact_gradient = exact(name)
    assert value == pytest.approx(wanted, rel=1e-6)
    for key, found in gradient.items():
        np.testing.assert_allclose(found, exact_gradient[key], rtol=1e-6, atol=1e-6, err_msg=key)


def test_chance_is_ln_b_and_accuracy_counts_the_diagonal():
    same = np.ones((B, E), np.float32) / np.float32(np.sqrt(E))
    value, _ = softmax_contrastive(same, same, jnp.float32(2.0))
    assert value == pytest.approx(np.log(B), rel=1e-6)
    x = np.eye(B, dtype=np.float32)
    y = x[[1, 0, *range(2, B)]]
    for loss in (softmax_contrastive, lambda *a: sigmoid_contrastive(*a, jnp.float32(0))):
        _, metrics = loss(x, y, jnp.float32(2.0))
        assert metrics["i2t_accuracy"] == pytest.approx((B - 2) / B)
        assert metrics["t2i_accuracy"] == pytest.approx((B - 2) / B)


def test_the_tile_divides_where_a_divisor_is_near():
    assert tiles.tile_length(128, 4096) == 4096
    assert tiles.tile_length(32768, 32768) == 64
    assert tiles.tile_length(30000, 30000) == 60  # at most 69; 60 divides
    assert tiles.tile_length(10**9, 97) == 16  # a prime count: padded


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_no_buffer_holds_all_pairs_and_few_collectives_run(name, devices, monkeypatch):
    """512 pairs, tile 64: nothing of local rows x 512 in the program, one gather, one scatter."""
    size, tile = 512, 64
    monkeypatch.setattr(tiles, "tile_length", lambda rows, columns: tile)
    shape = jax.ShapeDtypeStruct((size, E), jnp.float32)
    mesh = make_mesh({"data": -1}, jax.devices()[:devices])
    split = NamedSharding(mesh, BATCH_SPEC)
    scalar = jnp.float32(0)
    loss = {
        "softmax": lambda x, y: softmax_contrastive(x, y, scalar)[0],
        "sigmoid": lambda x, y: sigmoid_contrastive(x, y, scalar, scalar)[0],
    }[name]
    with jax.set_mesh(mesh):
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), in_shardings=split)
        text = run.lower(shape, shape).compile().as_text()
    rows = size // devices
    assert f"f32[{rows},{tile}]" in text
    assert f"[{rows},{size}]" not in text and f"[{size},{rows}]" not in text
    moved = re.findall(r"= \(?f32\[([\d,]*)\]\S* (all-\w+|reduce-scatter|collective-\w+)", text)
    matrices = sorted(kind for shape, kind in moved if "," in shape)
    assert matrices == (["all-gather", "reduce-scatter"] if devices > 1 else [])
    assert len(moved) <= 6  # the others are statistics of at most `size` numbers

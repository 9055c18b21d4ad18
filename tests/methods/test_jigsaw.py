"""Jigsaw: tiles, permutations and their inverse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretext import B, batch_of, build, check_accumulation, check_functions, made

from vlp_jax.augment.tiles import cut, mosaic, standardise
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs
from vlp_jax.core.rng import example_keys
from vlp_jax.models.head import Head

PUZZLE = dict(picture_size=60, permutations=20, tile_width=8, hidden=(16,))


def test_tiles_lie_in_their_cells():
    method = build("jigsaw", **PUZZLE)
    corners = np.asarray(method.corners(example_keys(jax.random.key(0), 60), 60))
    cells = corners // 20
    grid = [(r, c) for r in range(3) for c in range(3)]
    assert (cells == grid).all() and ((corners % 20) + 16 <= 20).all()
    assert len(np.unique(corners % 20)) == 5  # every place that fits


def test_mosaic_undoes_a_gapless_cut():
    images = jax.random.uniform(jax.random.key(0), (2, 48, 48, 3))
    method = build("jigsaw", **{**PUZZLE, "picture_size": 48})
    tiles = cut(images, method.corners(None, 2), 16)
    np.testing.assert_array_equal(mosaic(tiles), images)


def test_a_tile_tells_nothing_of_its_colour():
    tiles = jax.random.uniform(jax.random.key(0), (2, 9, 16, 16, 3)) * 4 + 7
    out = standardise(tiles)
    np.testing.assert_allclose(out.mean((2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((2, 3)), 1, atol=2e-2)
    assert np.abs(standardise(jnp.ones((1, 1, 4, 4, 3)))).max() == 0


def test_the_inverse_puts_tiles_back():
    method = build("jigsaw", **PUZZLE)
    images = batch_of(method)["image"] / 255
    labels = jnp.arange(B)[:, None]
    rows = {"corners": method.corners(None, B), "labels": labels}
    rows["logits"] = jax.nn.one_hot(labels, 20)
    asked, back, true = jnp.moveaxis(method.show(images, rows), 1, 0)
    np.testing.assert_array_equal(back, true)
    assert (asked[1] != true[1]).any() and (asked[0] == true[0]).all()  # class 0: the identity


def test_the_head_sees_the_tiles_in_the_order_of_the_class():
    """Asking a shuffled picture for class 0 is asking the picture for the class."""
    method = build("jigsaw", **{**PUZZLE, "picture_size": 48})
    v, batch, corners = made(method), batch_of(method, 1), method.corners(None, 1)
    order = method.orders[7]
    shuffled = mosaic(cut(batch["image"], corners, 16)[:, order])
    pooled, _ = method.tiles(v, Inputs.of({"image": shuffled}), corners)
    whole, _ = method.tiles(v, Inputs.of(batch), corners)
    np.testing.assert_allclose(pooled, whole[:, order], atol=1e-5)


def test_accumulation_and_functions():
    method = build("jigsaw", **PUZZLE, draws=3, dropout=0.5)
    loss, aux, _ = check_accumulation(method)
    assert float(loss) == pytest.approx(np.log(20), rel=0.5)
    assert aux.metrics["chance_accuracy"] == pytest.approx(1 / 20)
    check_functions(method, panels=3)
    check_functions(build("jigsaw", **{**PUZZLE, "grid": 2}), panels=3)


def test_dropout_after_the_tile_layer_and_after_the_hidden_ones():
    """In training alone, each example by its own key; kept values are doubled."""
    keys, head = example_keys(jax.random.key(0), B), Head(1, (1000,), 0.5)
    ones = {"fc1": {"kernel": jnp.ones((1, 1000)), "bias": jnp.zeros(1000)}}
    ones["out"] = {"kernel": jnp.full((1000, 1), 1e-3), "bias": jnp.zeros(1)}
    out = np.asarray(head.apply({"params": ones}, jnp.ones((B, 1)), keys))
    assert len(np.unique(out)) > B / 2 and (np.abs(out - 1) < 0.15).all()
    np.testing.assert_allclose(head.apply({"params": ones}, jnp.ones((B, 1))), 1, rtol=1e-5)
    off = build("jigsaw", **{**PUZZLE, "hidden": ()})
    method, v = dataclasses.replace(off, dropout=0.5), made(off)
    train, quiet = Inputs.of(batch_of(off), keys, train=True), Inputs.of(batch_of(off), keys)
    run = lambda m, x: m.encode(v, x)[0]["logits"]  # noqa: E731
    assert (run(method, train) != run(off, train)).all()  # the tiles' layer is the only one
    np.testing.assert_array_equal(run(method, quiet), run(off, quiet))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"permutations": 1}, "method.permutations=1: from 2 to 362880"),
        ({"permutations": 25, "grid": 2}, "method.permutations=25: from 2 to 24"),
        ({"picture_size": 47}, "method.picture_size=47: 3 tiles of 16 need 48"),
        ({"grid": 4}, "method.grid=4"),
    ],
)
def test_puzzles_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        build("jigsaw", **{**PUZZLE, **changes})

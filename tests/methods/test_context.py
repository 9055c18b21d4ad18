"""Context prediction: labels, places, shortcuts closed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretext import B, batch_of, build, check_accumulation, check_functions

from vlp_jax.augment.filters import pixelate
from vlp_jax.augment.tiles import cut
from vlp_jax.core.errors import UserError
from vlp_jax.core.rng import example_keys
from vlp_jax.methods.context import AROUND, CENTRE, downsample, drop_colour, pairs

GRID = dict(picture_size=64, gap=4, jitter=2, hidden=(16,))


def test_both_orders_carry_opposite_labels():
    first, second, label = pairs()
    assert len(label) == 16 and (np.bincount(label) == 2).all()
    names = {0: (-1, -1), 1: (-1, 0), 2: (-1, 1), 3: (0, -1), 4: (0, 1), 5: (1, -1), 6: (1, 0)}
    names[7] = (1, 1)
    for a, b, what in zip(first, second, label, strict=True):
        assert (b // 3 - a // 3, b % 3 - a % 3) == names[what]
        assert CENTRE in (a, b)


def test_patches_show_their_place():
    """Every pixel holds its own row and column, so a patch tells where it was cut."""
    method = build("context", **GRID)
    place = jnp.stack(jnp.meshgrid(jnp.arange(64), jnp.arange(64), indexing="ij"), -1)
    corners = method.corners(example_keys(jax.random.key(1), 50), 50)
    assert corners.min() >= 0 and corners.max() <= 64 - 16
    patches = cut(jnp.broadcast_to(place, (50, 64, 64, 2)), corners, 16)
    np.testing.assert_array_equal(patches[:, :, 0, 0], corners)
    np.testing.assert_array_equal(patches[:, :, -1, -1], corners + 15)
    step = np.asarray(corners[:, AROUND] - corners[:, [CENTRE]])
    wanted = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]) * 20
    assert np.abs(step - wanted).max() <= 4 and np.abs(step - wanted).max() > 0
    apart = np.abs(step).max(-1) - 16
    assert apart.min() >= 0  # gap 4, both patches moved by 2 at most: they never overlap
    assert len({tuple(c) for c in np.asarray(corners[:, CENTRE])}) > 10


def test_dropping_colour_keeps_one_centred_channel():
    patch = jax.random.uniform(jax.random.key(0), (8, 8, 3)) + 3
    level, kept = jnp.full(3, 0.01), set()
    for seed in range(12):
        out = np.asarray(drop_colour(patch, jax.random.key(seed), 1.0, level))
        same = [np.allclose(out[..., c], patch[..., c] - patch[..., c].mean()) for c in range(3)]
        assert sum(same) == 1 and np.abs(out[..., ~np.array(same)]).max() <= 0.005
        kept.add(same.index(True))
    assert kept == {0, 1, 2}
    np.testing.assert_array_equal(drop_colour(patch, jax.random.key(0), 0.0, level), patch)


def test_projection_moves_green_and_magenta_to_grey_and_leaves_grey_alone():
    method = build("context", **GRID, color_projection=True)
    colours = np.array([(80, 80, 80), (0, 240, 0), (120, 0, 120), (200, 100, 0)], np.uint8)
    images = jnp.asarray(np.broadcast_to(colours[:, None, None], (4, 64, 64, 3)))
    ready = np.asarray(method.prepare(images, None))[:, 0, 0]
    found = (ready * np.array(method.image_std) + np.array(method.image_mean)) * 255
    wanted = [(80, 80, 80), (80, 80, 80), (80, 80, 80), (200, 100, 0)]  # the last lies across
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_tower_sees_patches_of_one_strength():
    patches = (
        jax.random.normal(jax.random.key(0), (2, 9, 4, 4, 3)) * jnp.arange(9)[:, None, None, None]
    )
    method = build("context", **GRID, divide_rms=True)
    strength = np.sqrt(np.square(method.levelled(patches)).mean((2, 3, 4)))
    np.testing.assert_allclose(strength[:, 1:], 1, rtol=1e-4)
    assert not strength[:, 0].any(), "a black patch stays black"
    same = build("context", **GRID).levelled(patches)
    np.testing.assert_array_equal(same, patches)


def test_a_share_of_patches_loses_resolution():
    patch = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    keys = jax.random.split(jax.random.key(1), 400)
    out = np.asarray(jax.vmap(lambda key: downsample(patch, key, 0.33))(keys))
    changed = (out != np.asarray(patch)).any((1, 2, 3))
    assert 0.25 < changed.mean() < 0.41
    sides = {float(s): pixelate(patch, s) for s in jnp.arange(10.0, 31)}
    near = [min(sides, key=lambda s: np.abs(sides[s] - x).max()) for x in out[changed]]
    for side, x in zip(near, out[changed], strict=True):
        np.testing.assert_allclose(x, sides[side], atol=1e-5)
    area = np.square(np.array(near))
    assert min(near) < 14 and max(near) == 30 and 470 < area.mean() < 560  # uniform in pixels
    np.testing.assert_array_equal(downsample(patch, keys[0], 0.0), patch)


def test_patches_are_spoiled_one_by_one():
    method = build("context", **GRID, color_drop=0.5, downsample=0.5)
    patches = jnp.broadcast_to(
        jax.random.uniform(jax.random.key(0), (16, 16, 3)), (B, 9, 16, 16, 3)
    )
    keys = example_keys(jax.random.key(1), B)
    out = np.asarray(method.spoiled(patches, keys))
    kinds = len({patch.tobytes() for patch in out.reshape(-1, 16 * 16 * 3)})
    assert kinds > 9 * B / 2
    np.testing.assert_allclose(method.spoiled(patches[3:], keys[3:]), out[3:], atol=1e-6)


def test_accumulation_and_functions():
    method = build("context", **GRID, color_drop=0.5, downsample=0.5, color_projection=True)
    loss, aux, _ = check_accumulation(method)
    assert float(loss) == pytest.approx(np.log(8), rel=0.5)
    assert aux.metrics["chance_accuracy"] == 0.125
    summed = check_accumulation(dataclasses.replace(method, sum_pairs=True))[0]
    assert float(summed) == pytest.approx(16 * float(loss), rel=1e-5)
    check_functions(method, panels=6)


def test_a_right_answer_is_drawn_at_the_true_place():
    method = build("context", **GRID)
    images = batch_of(method)["image"] / 255
    labels = jnp.broadcast_to(pairs()[2], (B, 16))
    rows = {"corners": method.corners(None, B), "logits": jax.nn.one_hot(labels, 8)}
    panels = method.show(images, rows)
    np.testing.assert_array_equal(panels[:, 0::2], panels[:, 1::2])
    rows["logits"] = jax.nn.one_hot(7 - labels, 8)
    wrong = method.show(images, rows)
    np.testing.assert_array_equal(wrong[:, 0::2], panels[:, 0::2])
    assert (wrong[:, 0] != wrong[:, 1]).any()


def test_a_picture_smaller_than_the_grid():
    with pytest.raises(UserError, match=r"picture_size=59: a grid of 3 patches of 16 .*needs 60"):
        build("context", **{**GRID, "picture_size": 59})

"""Every change of augment/colour.py and augment/filters.py against one picture at a time with
colorsys, PIL and numpy, and the whole pipeline against those steps in the drawn order.
"""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vlp_jax.augment import colour, filters
from vlp_jax.augment.pictures import Augment, augment
from vlp_jax.core import rng as rngs
from vlp_jax.core.rng import example_keys

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), np.uint8)
IMAGES[0] = 90  # a grey picture has no hue
IMAGES[1, :, :, 1] = IMAGES[1, :, :, 0]  # two channels equal and largest
KEYS = example_keys(jax.random.key(0), 24)
LUMA = np.array([0.299, 0.587, 0.114])


def hue_of_one(image, turns):
    """float[H, W, 3] through colorsys, pixel by pixel."""
    out = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[place] / 255)
        out[place] = colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)
    return 255 * out


def blend_of_one(image, operation, factor, adds):
    grey = image @ LUMA
    if operation == colour.BRIGHTNESS:
        out = image + 255 * factor if adds else factor * image
    elif operation == colour.CONTRAST:
        out = factor * image + (1 - factor) * grey.mean()
    else:
        out = factor * image + (1 - factor) * grey[..., None]
    return np.clip(out, 0, 255)


def jitter_of_one(image, draw, adds):
    image = image.astype(np.float64)
    for slot in range(4):
        if slot == draw.place:
            image = hue_of_one(image, float(draw.hue))
        if slot < 3:
            operation = int(draw.order[slot])
            image = blend_of_one(image, operation, float(draw.factor[operation]), adds)
    return image


def blur_of_one(image, sigma):
    """Separable, two loops over taps, zeros outside."""
    radius = image.shape[0] // 10 // 2
    taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if axis == a else (0, 0) for a in range(3)]
        padded = np.pad(image, pad)
        size = image.shape[axis]
        image = sum(t * padded.take(range(i, i + size), axis) for i, t in enumerate(taps))
    return image


@pytest.mark.parametrize("turns", [0.0, 0.1, -0.2, 0.5])
def test_hue_is_colorsys(turns):
    out = np.asarray(jax.jit(jax.vmap(colour.shift_hue, (0, None)))(np.float32(IMAGES[:4]), turns))
    for image, found in zip(IMAGES, out, strict=False):
        np.testing.assert_allclose(found, hue_of_one(image.astype(np.float64), turns), atol=2e-3)


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.7])
def test_blends_are_pillow(factor):
    image = IMAGES[5]
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for operation, kind in enumerate(kinds):
        wanted = np.asarray(kind(Image.fromarray(image)).enhance(factor), np.float32)
        factors = jnp.full(3, factor)
        found = colour._blend(jnp.float32(image), jnp.int32(operation), factors, False)
        np.testing.assert_allclose(found, wanted, atol=1.6)  # Pillow rounds grey, mean and result


@pytest.mark.parametrize("adds", [False, True])
def test_jitter_is_the_drawn_operations_one_by_one(adds):
    spread = colour.Jitter(0.8, 0.8, 0.8, 0.2, adds)
    draws = jax.vmap(colour.draw_jitter, (0, None))(KEYS, spread)
    run = jax.jit(jax.vmap(lambda image, draw: colour.jitter(image, draw, spread)))
    found = run(np.float32(IMAGES), draws)
    for index in range(8):
        draw = jax.tree.map(lambda x, index=index: np.asarray(x[index]), draws)
        wanted = jitter_of_one(IMAGES[index], draw, adds)
        np.testing.assert_allclose(found[index], wanted, atol=0.02)


def test_draws_cover_their_ranges_and_all_orders():
    keys = example_keys(jax.random.key(2), 2000)
    for adds, low, high in ((False, 0.2, 1.8), (True, -0.8, 0.8)):
        spread = colour.Jitter(0.8, 0.4, 1.5, 0.2, adds)
        draw = jax.vmap(colour.draw_jitter, (0, None))(keys, spread)
        limits = ((low, high), (0.6, 1.4), (0.0, 2.5))
        for column, (least, most) in enumerate(limits):
            values = np.asarray(draw.factor[:, column])
            assert least <= values.min() < least + 0.02 and most - 0.02 < values.max() <= most
        assert np.abs(np.abs(draw.hue).max() - 0.2) < 1e-3
        orders = np.concatenate([draw.order, draw.place[:, None]], 1)
        _, counts = np.unique(orders, axis=0, return_counts=True)
        assert len(counts) == 24 and counts.min() > 45 and counts.max() < 130


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_separable_taps(sigma):
    image = np.random.default_rng(1).uniform(0, 255, (41, 41, 3))
    found = jax.jit(filters.blur)(np.float32(image), sigma)
    np.testing.assert_allclose(found, blur_of_one(image, sigma), atol=1e-3)
    assert (np.asarray(found)[0].mean() < np.asarray(found)[9:-9].mean()) or sigma < 0.5


def test_small_pictures_are_not_blurred():
    small = np.float32(IMAGES[0, :19, :19])
    np.testing.assert_array_equal(filters.blur(small, 1.0), small)


@pytest.mark.parametrize("side", [1, 7, 19, 20])
def test_lost_resolution_is_pillows_resize_there_and_back(side):
    image = IMAGES[2].astype(np.float32)
    found = jax.jit(filters.pixelate)(image, jnp.float32(side))
    for channel in range(3):
        small = Image.fromarray(image[..., channel]).resize((side, side), Image.BILINEAR)
        back = np.asarray(small.resize((20, 20), Image.BILINEAR))
        np.testing.assert_allclose(found[..., channel], back, atol=1e-2)


def test_quarter_turns():
    for turns in range(4):
        found = filters.quarter_turn(IMAGES[3], jnp.int32(turns))
        np.testing.assert_array_equal(found, np.rot90(IMAGES[3], turns))


def test_edges_of_a_ramp_and_of_a_step():
    ramp = np.broadcast_to(np.arange(8.0)[:, None, None], (8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(filters.edges(ramp)[1:-1], 8.0)
    corner = np.zeros((8, 8, 3), np.float32)
    corner[4:, 4:] = 20
    np.testing.assert_allclose(filters.edges(corner)[3, 3], np.sqrt(2) * 20, rtol=1e-6)
    np.testing.assert_allclose(filters.edges(corner)[6, 3], 4 * 20, rtol=1e-6)


def test_cutout_is_a_square_of_the_asked_side():
    white = np.full((20, 20, 3), 255, np.float32)
    out = np.asarray(jax.vmap(filters.cutout, (None, 0, None))(white, KEYS, 0.5))
    holes = (out == 0).all(-1)
    assert holes.sum((1, 2)).max() == 100 and holes.sum((1, 2)).min() >= 25
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert (hole == np.outer(rows, columns)).all() and max(rows.sum(), columns.sum()) <= 10


def test_crops_are_drawn_again_until_one_fits():
    keys = example_keys(jax.random.key(4), 4000)
    draw = jax.vmap(lambda key: filters.draw_crop(key, (0.08, 1.0), (3 / 4, 4 / 3), 10))
    share, start = (np.asarray(x) for x in jax.jit(draw)(keys))
    assert share.max() < 1 and (share + start).max() <= 1 + 1e-6 and start.min() >= 0
    ratio = share[:, 1] / share[:, 0]
    assert 0.749 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.334, "no box is cut"
    assert 0.08 < share.prod(1).min() < 0.09 and share.prod(1).mean() > 0.45
    whole = jax.vmap(lambda key: filters.draw_crop(key, (1.0, 1.0), (0.5, 0.6), 10))(keys[:3])
    np.testing.assert_array_equal(whole[0], 1.0)


@pytest.mark.parametrize("size", [(90, 60), (50, 75)])
def test_crops_of_a_squashed_picture_are_those_of_the_picture(size):
    """Area, shape and pixels as PIL cuts them from the picture before it was squashed."""
    aspect = size[0] / size[1]
    draw = lambda key: filters.draw_crop(key, (0.08, 1.0), (3 / 4, 4 / 3), 10, aspect)  # noqa: E731
    keys = example_keys(jax.random.key(5), 2000)
    share, start = (np.asarray(x) for x in jax.jit(jax.vmap(draw))(keys))
    ratio = aspect * share[:, 1] / share[:, 0]
    fits = share.max(1) < 1
    assert fits.mean() > 0.99 and (share + start).max() <= 1 + 1e-6
    assert 0.749 < ratio[fits].min() < 0.76 and 1.31 < ratio[fits].max() < 1.334
    assert 0.08 < share.prod(1).min() < 0.09 and share.prod(1)[fits].max() > 0.8

    whole = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8))
    whole = whole.resize(size, Image.Resampling.BICUBIC)
    canvas = np.asarray(whole.resize((120, 120), Image.Resampling.BICUBIC), np.float32)
    cut = jax.jit(jax.vmap(lambda a, b: filters.crop(canvas, a, b, 32)))(share[:8], start[:8])
    for found, a, b in zip(np.asarray(cut), share, start, strict=False):
        start_x, start_y = b[::-1] * size
        end_x, end_y = np.minimum((a + b)[::-1] * size, size)
        box = (start_x, start_y, end_x, end_y)
        wanted = whole.resize((32, 32), Image.Resampling.BICUBIC, box=box)
        np.testing.assert_allclose(found, np.asarray(wanted), atol=6)


def test_a_canvas_ends_at_the_asked_size_with_or_without_a_crop():
    aspect = np.full(len(IMAGES), 2.0, np.float32)
    plain = np.asarray(augment(IMAGES, Augment(), None, 10, aspect))
    assert plain.shape == (24, 10, 10, 3)
    for image, found in zip(IMAGES, plain, strict=True):  # a square of a wide one: half its width
        wanted = Image.fromarray(image).resize(
            (10, 10), Image.Resampling.BICUBIC, box=(5, 0, 15, 20)
        )
        np.testing.assert_allclose(found, np.asarray(wanted), atol=1.5)
    flipped = np.asarray(augment(IMAGES, Augment(flip=1.0), KEYS, 10, aspect))
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=1e-3)
    cut = Augment(crop_scale=(0.2, 0.9), crop_attempts=10)
    assert augment(IMAGES, cut, KEYS, 10, aspect).shape == (24, 10, 10, 3)


def test_the_pipeline_is_its_steps_per_picture():
    """flip, jitter, grey, blur and clip, with the pipeline's own keys, one picture at a time."""
    c = Augment(flip=0.5, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    c = c.__class__(**{**c.__dict__, "jitter": 0.8, "grey": 0.2, "blur": 0.5})
    found = np.asarray(jax.jit(augment, static_argnums=1)(IMAGES, c, KEYS))
    spread, counts = colour.Jitter(0.8, 0.8, 0.8, 0.2), dict.fromkeys("fjgb", 0)
    for image, key, out in zip(IMAGES, rngs.fold(KEYS, "augment"), found, strict=True):
        keys = jax.random.split(key, 6)
        chance = lambda k, p: bool(jax.random.bernoulli(k, p))  # noqa: E731
        image = image.astype(np.float64)
        if chance(keys[1], 0.5):
            image, counts["f"] = image[:, ::-1], counts["f"] + 1
        if chance(keys[3], 0.8):
            draw = jax.tree.map(np.asarray, colour.draw_jitter(keys[2], spread))
            image, counts["j"] = jitter_of_one(image, draw, False), counts["j"] + 1
        if chance(keys[5], 0.2):
            image, counts["g"] = np.repeat(image @ LUMA[:, None], 3, -1), counts["g"] + 1
        if chance(rngs.fold(key, "blur"), 0.5):
            sigma = jax.random.uniform(rngs.fold(key, "sigma"), minval=0.1, maxval=2.0)
            image, counts["b"] = blur_of_one(image, float(sigma)), counts["b"] + 1
        np.testing.assert_allclose(out, np.clip(image, 0, 255), atol=0.05)
    assert all(0 < n < 24 for n in counts.values()), counts

"""Every operation against PIL's own, and the distribution of what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vlp_jax.augment import rand_augment as ra
from vlp_jax.augment.rand_augment import RandAugment, rand_augment
from vlp_jax.core.errors import UserError
from vlp_jax.core.rng import example_keys

SIZE, FILL = (21, 26), (124.0, 116.0, 104.0)
MEAN = tuple(map(int, FILL))


def pictures():
    """Smooth, noisy and narrow-range pictures: uint8[3, 21, 26, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    smooth = np.stack([9 * x + y, 5 * y + 3 * x, 200 - 4 * x - 3 * y], -1)
    noisy = rng.integers(0, 256, (*SIZE, 3))
    narrow = rng.integers(60, 100, (*SIZE, 3))
    return np.stack([smooth, noisy, narrow]).clip(0, 255).astype(np.uint8)


def factor(level, sign):
    return max(0.1, 1 + sign * 0.9 * level / 10)


def add_below(level):
    added = int(level / 10 * 110)
    return [min(255, i + added) if i < 128 else i for i in range(256)] * 3


def keep_bits(picture, bits):
    """ImageOps.posterize, which takes no 0 bits: those of a picture at level 10, which is black."""
    return ImageOps.posterize(picture, bits) if bits else Image.new("RGB", picture.size)


def affine(picture, *matrix):
    how = dict(resample=Image.BICUBIC, fillcolor=MEAN)
    return picture.transform(picture.size, Image.AFFINE, matrix, **how)


ORACLE = {
    "auto_contrast": lambda p, v, s: ImageOps.autocontrast(p),
    "equalize": lambda p, v, s: ImageOps.equalize(p),
    "invert": lambda p, v, s: ImageOps.invert(p),
    "posterize": lambda p, v, s: keep_bits(p, 4 - int(v / 10 * 4)),
    "solarize": lambda p, v, s: ImageOps.solarize(p, 256 - int(v / 10 * 256)),
    "solarize_add": lambda p, v, s: p.point(add_below(v)),
    "color": lambda p, v, s: ImageEnhance.Color(p).enhance(factor(v, s)),
    "contrast": lambda p, v, s: ImageEnhance.Contrast(p).enhance(factor(v, s)),
    "brightness": lambda p, v, s: ImageEnhance.Brightness(p).enhance(factor(v, s)),
    "sharpness": lambda p, v, s: ImageEnhance.Sharpness(p).enhance(factor(v, s)),
    "rotation": lambda p, v, s: p.rotate(s * 3.0 * v, resample=Image.BICUBIC, fillcolor=MEAN),
    "shear_x": lambda p, v, s: affine(p, 1, s * 0.03 * v, 0, 0, 1, 0),
    "shear_y": lambda p, v, s: affine(p, 1, 0, 0, s * 0.03 * v, 1, 0),
    "translate_x": lambda p, v, s: affine(p, 1, 0, s * 0.045 * v * p.size[0], 0, 1, 0),
    "translate_y": lambda p, v, s: affine(p, 1, 0, 0, 0, 1, s * 0.045 * v * p.size[1]),
}
NAMES = [op.__name__ for op in (*ra.COLOURS, *ra.WARPS)]


@pytest.fixture(scope="module")
def applied():
    every = jax.vmap(ra.apply, (0, None, None, None, None))
    return jax.jit(lambda images, *how: every(images, *how, jnp.asarray(FILL)))


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_pils(applied, name):
    images = pictures()
    for level, sign in ((9.0, 1.0), (9.0, -1.0), (3.3, 1.0), (10.0, -1.0)):
        how = (jnp.int32(NAMES.index(name)), jnp.float32(level), jnp.float32(sign))
        found = np.asarray(applied(images.astype(np.float32), *how))
        assert found.min() >= 0 and found.max() <= 255
        for got, image in zip(found, images, strict=True):
            wanted = np.asarray(ORACLE[name](Image.fromarray(image), level, sign), np.float32)
            off = np.abs(got - wanted)
            # Rounding may put a warped pixel on the very edge, or a whole grey level, to the other
            # side of it.
            wrong = np.mean(off > 0) > 0.01 if name in NAMES[10:] else off.max() > 1
            assert not wrong, (level, sign, off.max())


def test_each_picture_follows_its_own_key_and_rates_hold():
    images = jnp.asarray(np.repeat(pictures()[:1], 512, 0))
    run = jax.jit(lambda x, k, how: rand_augment(x, how, k, FILL), static_argnums=2)
    keys, how = example_keys(jax.random.key(0), 512), RandAugment(magnitude=9.0)
    out = np.asarray(run(images, keys, how))
    np.testing.assert_array_equal(out[7:9], np.asarray(run(images[7:9], keys[7:9], how)))
    untouched = np.mean((out == np.asarray(images)).all((1, 2, 3)))
    assert 0.2 < untouched < 0.36  # 1/4 by `prob`, and posterize or equalize may change nothing
    assert (out == np.round(out)).all() and out.min() >= 0 and out.max() <= 255
    all_on = np.asarray(run(images, keys, RandAugment(magnitude=9.0, prob=1.0, num_ops=1)))
    assert np.mean((all_on == np.asarray(images)).all((1, 2, 3))) < 0.1
    assert len({row.tobytes() for row in all_on}) > 100


def test_levels_are_clipped_and_ops_signs_and_probability_are_the_recipes(monkeypatch):
    """What `apply` is told, written into the picture's channels: op, level, sign."""

    def told(image, op, level, sign, fill, how):
        return jnp.broadcast_to(jnp.stack([op.astype(jnp.float32), level, sign]), image.shape)

    monkeypatch.setattr(ra, "apply", told)
    count = 6000
    images, keys = jnp.full((count, 1, 1, 3), 77.0), example_keys(jax.random.key(0), count)

    def run(**how):
        out = np.asarray(rand_augment(images, RandAugment(num_ops=1, **how), keys, FILL))[:, 0, 0]
        return out[out[:, 0] != 77].T

    op, level, sign = run(magnitude=9.0, prob=1.0)
    assert len(op) == count
    np.testing.assert_allclose(np.bincount(op.astype(int), minlength=15) / count, 1 / 15, atol=0.02)
    assert set(np.unique(sign)) == {-1, 1} and abs(sign.mean()) < 0.05
    assert level.max() == 10 and np.mean(level == 10) == pytest.approx(0.0228, abs=0.008)
    assert level.std() == pytest.approx(0.5, abs=0.03) and abs(level.mean() - 9) < 0.03
    assert abs(np.corrcoef(np.stack([op, level, sign]))[np.triu_indices(3, 1)]).max() < 0.05
    low = run(magnitude=0.1, std=1.0, prob=1.0)[1]
    assert low.min() == 0 and np.mean(low == 0) == pytest.approx(0.46, abs=0.03)
    for prob in (0.0, 0.3):
        assert run(magnitude=9.0, prob=prob).shape[1] / count == pytest.approx(prob, abs=0.03)


def test_nothing_happens_without_keys_or_magnitude():
    images = jnp.asarray(pictures())
    assert rand_augment(images, RandAugment(magnitude=9.0), None, FILL) is images
    keys = example_keys(jax.random.key(0), 3)
    assert rand_augment(images, RandAugment(), keys, FILL) is images


def test_chosen_operations_alone_happen_and_move_as_far_as_told():
    """`translate` 4 pixels of 16 at half the strength is 2, to either side; the rest is grey."""
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.float32)
    how = RandAugment(1, 5.0, 0.0, 1.0, ops=("identity", "translate_x"), translate=0.25)
    keys = example_keys(jax.random.key(0), 24)
    found = np.asarray(rand_augment(np.repeat(image, 24, 0), how, keys, (128.0,) * 3))
    left, right = np.full((2, *image[0].shape), 128, np.float32)
    left[:, :-2], right[:, 2:] = image[0][:, 2:], image[0][:, :-2]
    kinds = [[bool((f == w).all()) for w in (image[0], left, right)] for f in found]
    assert all(sum(kind) == 1 for kind in kinds)
    assert np.sum(kinds, axis=0).min() >= 3
    twice = RandAugment(1, 5.0, 0.0, 1.0, ops=("identity", "identity", "invert"))
    found = np.asarray(rand_augment(np.repeat(image, 24, 0), twice, keys, (0.0,) * 3))
    same = [bool((f == image[0]).all()) for f in found]
    turned = [bool((f == 255 - image[0]).all()) for f in found]
    assert 10 <= sum(same) <= 22 and sum(same) + sum(turned) == 24
    with pytest.raises(UserError, match=r"rand_augment.ops: unknown 'rotate'"):
        RandAugment(ops=("rotate",))

"""Mixup, CutMix and erasing: targets sum to one, areas are shares, keys go by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.augment.mixing import ERASE_AREA, Mixing, erase, mix
from vlp_jax.core.errors import UserError
from vlp_jax.core.rng import example_keys

B, C = 64, 7
RUN = jax.jit(mix, static_argnums=2)


def batch(size=B):
    """Pictures that hold their own number everywhere, targets one-hot."""
    numbers = jnp.arange(size, dtype=jnp.float32)[:, None, None, None]
    images = jnp.broadcast_to(numbers, (size, 16, 16, 3))
    return images, jax.nn.one_hot(jnp.arange(size) % C, C)


@pytest.mark.parametrize("how", [Mixing(mixup=0.8), Mixing(cutmix=1.0), Mixing(0.8, 1.0)])
def test_targets_sum_to_one_and_follow_the_pixels(how):
    images, targets = batch()
    mixed, soft = map(np.asarray, RUN(images, targets, how, example_keys(jax.random.key(0), B)))
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    own, partner = np.arange(B), (np.arange(B) + B // 2) % B
    share = soft[own, own % C]  # the partner is another class: 32 is no multiple of 7
    np.testing.assert_allclose(soft[own, partner % C], 1 - share, atol=1e-6)
    expected = share * own + (1 - share) * partner
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
    assert share.min() < 0.3 and share.max() > 0.9
    assert 0.35 < share.mean() < 0.65 or how.cutmix  # a box loses what the border cuts off


def test_an_odd_micro_batch_has_other_pairs_and_is_refused():
    images, targets = batch(3)
    keys = example_keys(jax.random.key(0), 3)
    for how in (Mixing(mixup=0.8), Mixing(cutmix=1.0)):
        with pytest.raises(UserError, match="batch_size / accumulate must be even, not 3"):
            RUN(images, targets, how, keys)
    assert RUN(images, targets, Mixing(), keys)[0] is not None


def test_cutmix_keeps_whole_pixels_and_its_area_is_the_share():
    images, targets = batch()
    mixed, soft = map(
        np.asarray, RUN(images, targets, Mixing(cutmix=1.0), example_keys(jax.random.key(1), B))
    )
    for i in range(B):
        cut = mixed[i, :, :, 0] != i
        assert set(np.unique(mixed[i])) <= {i, (i + B // 2) % B}
        assert 1 - cut.mean() == pytest.approx(soft[i, i % C], abs=1e-6)
        rows, columns = cut.any(1), cut.any(0)
        np.testing.assert_array_equal(cut, rows[:, None] & columns[None])  # a box
        assert np.abs(np.diff(rows.astype(int))).sum() <= 2


def test_switch_and_probability_hold():
    images, targets = batch(512)
    keys = example_keys(jax.random.key(2), 512)
    mixed, soft = map(np.asarray, RUN(images, targets, Mixing(0.8, 1.0, prob=0.5), keys))
    changed = soft.max(1) < 1
    assert 0.4 < changed.mean() < 0.6
    whole = np.array([len(np.unique(row)) == 1 for row in mixed])
    assert 0.4 < (whole & changed).sum() / changed.sum() < 0.6  # mixup leaves plain pictures plain


def test_micro_batches_have_the_pairs_of_the_batch():
    images, targets = batch()
    how, keys = Mixing(0.8, 1.0), example_keys(jax.random.key(3), B)
    whole = RUN(images, targets, how, keys)
    for count in (2, 4):
        for k in range(count):
            part = RUN(images[k::count], targets[k::count], how, keys[k::count])
            for a, b in zip(whole, part, strict=True):
                np.testing.assert_allclose(a[k::count], b, atol=1e-5)


def test_erasing_is_a_noisy_box_of_the_published_sizes():
    images = jnp.full((512, 32, 32, 3), 9.0)
    keys = example_keys(jax.random.key(4), 512)
    out = np.asarray(jax.jit(erase, static_argnums=1)(images, 0.25, keys))
    hit = (out != 9).any(-1)  # [B, H, W]
    touched = hit.any((1, 2))
    assert 0.19 < touched.mean() < 0.31
    area = hit[touched].mean((1, 2))
    assert ERASE_AREA[0] * 0.7 < area.min() and area.max() < ERASE_AREA[1] * 1.1
    assert abs(out[hit].mean()) < 0.1 and abs(out[hit].std() - 1) < 0.1
    for box in hit[touched]:
        np.testing.assert_array_equal(box, box.any(1)[:, None] & box.any(0)[None])


def test_nothing_happens_without_keys_or_settings():
    images, targets = batch(4)
    keys = example_keys(jax.random.key(0), 4)
    assert mix(images, targets, Mixing(0.8, 1.0), None)[0] is images
    assert mix(images, targets, Mixing(), keys)[1] is targets
    assert erase(images, 0.0, keys) is images and erase(images, 0.5, None) is images

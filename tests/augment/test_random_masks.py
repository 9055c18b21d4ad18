"""Masks to paint over: their kinds by their shares, their sizes, one per key."""

import jax
import numpy as np

from vlp_jax.augment.masks import _distance, random_masks
from vlp_jax.core.rng import example_keys

SIDE, COUNT = 32, 400
KEYS = example_keys(jax.random.key(0), COUNT)


def test_masks_by_kind_size_and_key():
    run = jax.jit(lambda keys, whole: random_masks(keys, SIDE, whole))
    masks = np.asarray(run(KEYS, 0.25))
    assert masks.shape == (COUNT, SIDE, SIDE, 1) and set(np.unique(masks)) == {0, 1}
    covered = masks.mean((1, 2, 3))
    whole = covered == 1
    assert abs(whole.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / COUNT)
    some = covered[~whole]
    assert some.min() > 0 and 0.1 < some.mean() < 0.6
    edge = masks[~whole][:, [0, -1]].any((1, 2, 3)) | masks[~whole][:, :, [0, -1]].any((1, 2, 3))
    assert 0.2 < edge.mean() < 0.5  # boxes, about half of them, leave a margin
    again = np.asarray(run(KEYS[::-1], 0.25))
    np.testing.assert_array_equal(again[::-1], masks)
    assert len(np.unique(masks[~whole].reshape((~whole).sum(), -1), axis=0)) > 0.95 * len(some)
    assert not (np.asarray(run(KEYS, 0.0)).mean((1, 2, 3)) == 1).any()
    assert (np.asarray(run(KEYS, 1.0)) == 1).all()


def test_a_stroke_is_what_is_near_its_line():
    places = np.float32([[[0, 0], [0.5, 0.5]], [[0.5, 1], [1, 0.5]]])
    found = _distance(places, np.float32([0.5, 0.25]), np.float32([0.5, 0.75]))
    np.testing.assert_allclose(found, [[np.hypot(0.5, 0.25), 0], [0.25, 0.5]], atol=1e-6)

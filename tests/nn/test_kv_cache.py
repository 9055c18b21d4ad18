"""The cache as arrays: where tokens are put, what they see, and rows in another order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.nn import cache as caches

L, B, H, S, K = 2, 3, 2, 5, 4


def numbered(count, start=0.0):
    """float[L, B, H, count, K], no two alike."""
    shape = (L, B, H, count, K)
    return jnp.asarray(start + np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def test_a_row_is_its_real_tokens_without_holes():
    """Prompts of 1, 3 and 2 tokens padded to 3, then one token each: the next comes over the
    padding, or after the last."""
    mask = jnp.arange(3) < jnp.array([[1], [3], [2]])
    prompt, more = numbered(3, 1), numbered(1, 1000)
    cache = caches.empty(L, B, H, S, K, jnp.float32)
    cache = caches.extend(cache, prompt, prompt + 0.5, 3, mask)
    np.testing.assert_array_equal(cache.at, [1, 3, 2])
    cache = jax.jit(caches.extend)(cache, more, more + 0.5, 1)
    np.testing.assert_array_equal(cache.at, [2, 4, 3])
    for row, length in enumerate((1, 3, 2)):
        wanted = np.concatenate([prompt[:, row, :, :length], more[:, row]], 2)
        np.testing.assert_array_equal(cache.key[:, row, :, : length + 1], wanted)
        np.testing.assert_array_equal(cache.value[:, row, :, : length + 1], wanted + 0.5)


def test_without_padding_one_place_serves_all_rows():
    cache = caches.empty(L, B, H, S, K, jnp.bfloat16)
    cache = caches.extend(caches.extend(cache, *[numbered(2)] * 2, 2), *[numbered(1, 7)] * 2, 1)
    assert cache.at.shape == () and cache.at == 3 and cache.slots == S
    assert cache.key.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        cache.key[..., 2, :], numbered(1, 7)[..., 0, :].astype("bfloat16")
    )
    assert not cache.key[..., 3:, :].any()


@pytest.mark.parametrize("at", [1, [1, 0]])
def test_a_token_sees_what_lies_before_it_and_itself(at):
    found = caches.visible(jnp.int32(at), 2, 4)
    rows = [[[1, 1, 0, 0], [1, 1, 1, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]]
    wanted = np.array(rows if isinstance(at, list) else rows[:1], bool)[:, None]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(caches.places(jnp.int32(at), 2), wanted[:, 0].sum(-1) - 1)


def test_rows_are_taken_of_everything_that_has_them():
    rows = jnp.array([2, 2, 0])
    cache = caches.Cache(numbered(S), numbered(S, 9), jnp.array([4, 1, 2]))
    taken = caches.take_rows(cache, rows)
    np.testing.assert_array_equal(taken.at, [2, 2, 4])
    np.testing.assert_array_equal(taken.value, numbered(S, 9)[:, [2, 2, 0]])
    same = caches.take_rows(caches.Cache(cache.key, cache.value, jnp.int32(4)), rows)
    assert same.at == 4
    mask = jnp.arange(S) < jnp.array([[5], [3], [1]])
    seen = caches.take_rows(caches.Context(numbered(S), numbered(S), mask), rows)
    np.testing.assert_array_equal(seen.mask.sum(1), [1, 1, 5])
    np.testing.assert_array_equal(seen.key, numbered(S)[:, [2, 2, 0]])
    assert caches.take_rows(caches.Context(numbered(S), numbered(S)), rows).mask is None


def test_layers_apart_keep_the_same_places_and_rows():
    kept = caches.Cache(numbered(S), numbered(S, 9), jnp.array([4, 1, 2]))
    rows, more = jnp.array([1, 2]), numbered(S, 50)[:, :2]
    taken = caches.take_rows(kept.apart(), rows)
    assert taken.slots == S and len(taken.key.trees) == L
    for found, whole in zip(taken.stacked, (kept.key, kept.value), strict=True):
        np.testing.assert_array_equal(found, whole[:, rows])
    longer = caches.extend(taken, more, more + 1, 1)  # those of all slots
    wanted = caches.Cache(more, more + 1, jnp.array([2, 3])).apart()
    jax.tree.map(np.testing.assert_array_equal, longer, wanted)

"""Dropout, stochastic depth and patch dropout: rates, order, and one key per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.rng import example_keys
from vlp_jax.nn.dropout import drop_path, dropout, patch_dropout

B = 64
KEYS = example_keys(jax.random.key(0), B)


def tokens(count, width=2):
    """Token n of example b holds (b, n)."""
    grid = np.stack(np.meshgrid(np.arange(B), np.arange(count), indexing="ij"), -1)
    return np.float32(np.repeat(grid, width // 2, -1))


@pytest.mark.parametrize(
    "drop",
    [
        lambda x, keys: dropout(x, 0.5, keys),
        lambda x, keys: drop_path(x, 0.5, keys),
        lambda x, keys: patch_dropout(x, 0.5, keys),
    ],
    ids=["dropout", "drop_path", "patch_dropout"],
)
def test_an_examples_mask_depends_on_its_own_key_only(drop):
    x = jnp.asarray(tokens(10) + 1)
    whole = drop(x, KEYS)
    np.testing.assert_array_equal(whole[40:48], drop(x[40:48], KEYS[40:48]))
    rows = np.asarray(drop(jnp.ones_like(x) * (1 + jnp.arange(10.0))[:, None], KEYS))
    assert len(np.unique(rows.reshape(B, -1), axis=0)) > 1, "examples share one mask"
    np.testing.assert_array_equal(drop(x, None), x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_share_and_the_mean(rate):
    kept = np.asarray(dropout(jnp.ones((B, 1000)), rate, KEYS))
    assert set(np.unique(kept)) == {0.0, np.float32(1 / (1 - rate))}
    assert (kept > 0).mean() == pytest.approx(1 - rate, abs=0.01)
    assert kept.mean() == pytest.approx(1, abs=0.05)


def test_rate_zero_is_the_identity():
    x = tokens(4)
    for fn in (dropout, patch_dropout):
        assert fn(x, 0.0, KEYS) is x
    np.testing.assert_array_equal(drop_path(x, 0.0, KEYS), x)


def test_drop_path_takes_whole_examples_and_rescales():
    x = jnp.ones((B, 3, 2))
    out = np.asarray(drop_path(x, 0.25, KEYS)).reshape(B, -1)
    assert all(len(np.unique(row)) == 1 for row in out)
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    assert (out[:, 0] > 0).mean() == pytest.approx(0.75, abs=0.15)


@pytest.mark.parametrize(
    "count, rate, kept", [(10, 0.5, 5), (49, 0.5, 24), (10, 0.75, 2), (4, 0.99, 1), (196, 0.3, 137)]
)
def test_patch_dropout_keeps_a_random_subset_in_order(count, rate, kept):
    out = np.asarray(patch_dropout(tokens(count), rate, KEYS))
    assert out.shape == (B, kept, 2)
    assert (out[..., 0] == np.arange(B)[:, None]).all(), "tokens of another example"
    places = out[..., 1].astype(int)
    assert kept == 1 or (np.diff(places, axis=1) > 0).all(), "order or repetition"
    if 1 < kept < count - 1:
        assert len(np.unique(places, axis=0)) > B // 2


def test_patch_dropout_is_uniform_over_places():
    keys = example_keys(jax.random.key(1), 2000)
    x = np.broadcast_to(np.float32(np.arange(8))[:, None], (2000, 8, 1))
    places = np.asarray(patch_dropout(x, 0.5, keys))[..., 0].astype(int)
    share = np.bincount(places.ravel(), minlength=8) / 2000
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_patch_dropout_carries_the_gradient_of_kept_tokens_only():
    x = tokens(6)
    gradient = jax.grad(lambda x: patch_dropout(x, 0.5, KEYS).sum())(x)
    assert set(np.unique(gradient)) == {0.0, 1.0} and gradient.sum() == B * 3 * 2

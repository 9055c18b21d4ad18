"""Pooling positions, by worked examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.nn.pooling import TEXT_POOLS, AttentionPool, pool_text

IDS = np.int32([[49406, 320, 49407, 0], [49406, 49407, 49407, 0], [49406, 5, 6, 49407]])
TOKENS = np.float32(np.arange(12).reshape(3, 4, 1))  # token t of text b holds 4 b + t


@pytest.mark.parametrize(
    "pool, wanted",
    [
        ("argmax", [2, 5, 11]),  # the first of two end tokens
        ("last", [3, 7, 11]),
        ("first", [0, 4, 8]),
        ("mean", [1, 5, 9.5]),  # padding (id 0) left out
    ],
)
def test_text_pools(pool, wanted):
    assert pool in TEXT_POOLS
    np.testing.assert_allclose(pool_text(TOKENS, IDS, pool)[:, 0], wanted)


def test_mean_of_a_text_that_is_all_padding_is_zero():
    np.testing.assert_array_equal(pool_text(TOKENS, np.zeros_like(IDS), "mean"), np.zeros((3, 1)))


def test_unknown_pools_are_refused():
    with pytest.raises(UserError, match=r"text\.pool: unknown 'argmx'; did you mean 'argmax'"):
        pool_text(TOKENS, IDS, "argmx")


def test_attention_pool_ignores_the_order_of_tokens_and_weighs_them():
    pool = AttentionPool(2, 16, "gelu", 1e-6)
    tokens = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    params = pool.init(jax.random.key(0), tokens)
    out = pool.apply(params, tokens)
    np.testing.assert_allclose(out, pool.apply(params, tokens[:, ::-1]), atol=1e-5)
    assert out.shape == (2, 8) and out.dtype == jnp.float32
    same = np.broadcast_to(tokens[:, :1], tokens.shape)  # equal tokens: weights must sum to 1
    one = pool.apply(params, same[:, :1])
    np.testing.assert_allclose(pool.apply(params, same), one, atol=1e-5)
    assert np.abs(out - one).max() > 1e-3

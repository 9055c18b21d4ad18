"""Losses of texts: which tokens count, and how much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.losses.language import counted, text_loss, token_loss


def test_smoothing_mixes_the_target_with_all_words():
    logits, targets = jax.random.normal(jax.random.key(0), (3, 7)), jnp.array([0, 6, 2])
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    hot = 0.9 * np.eye(7)[np.asarray(targets)] + 0.1 / 7
    wanted = -(hot * log_p).sum(1)
    np.testing.assert_allclose(token_loss(logits, targets, 0.1), wanted, rtol=1e-6)
    plain = -log_p[np.arange(3), np.asarray(targets)]
    np.testing.assert_allclose(token_loss(logits, targets), plain, rtol=1e-6)


def test_tokens_after_the_prompt_and_before_the_padding_count():
    mask = jnp.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]) > 0
    rows = lambda found: [list(map(int, row)) for row in np.asarray(found)]  # noqa: E731
    assert rows(counted(mask)) == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert rows(counted(mask, 4)) == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert rows(counted(mask, jnp.array([3, 2]))) == [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]


def test_a_texts_loss_is_the_sum_over_its_counted_tokens():
    logits = jax.random.normal(jax.random.key(1), (2, 4, 5))
    ids = jnp.array([[3, 1, 4, 2], [3, 0, 0, 0]])
    mask = jnp.array([[1, 0, 1], [1, 0, 0]]) > 0
    log_p = np.asarray(jax.nn.log_softmax(logits))
    wanted = [-log_p[0, 0, 1] - log_p[0, 2, 2], -log_p[1, 0, 0]]
    smoothed, plain = text_loss(logits, ids, mask, 0.2)
    np.testing.assert_allclose(plain, wanted, rtol=1e-6)
    each = token_loss(logits[:, :-1], ids[:, 1:], 0.2)
    assert float(smoothed[0]) == pytest.approx(float(each[0, 0] + each[0, 2]), rel=1e-6)

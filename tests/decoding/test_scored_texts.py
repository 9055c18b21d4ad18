"""Texts scored after a prompt, by a model of one token of memory, all of it known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.decoding import scoring
from vlp_jax.decoding.scoring import Scoring, score

V, B, K = 5, 2, 4
TABLE = np.float32(np.random.default_rng(0).normal(size=(V, V)))
LOG_P = np.asarray(jax.nn.log_softmax(TABLE), np.float64)
PROMPT = np.array([3, 1])  # the last token of each row's


def read(ids):
    """Logits after each of ids."""
    return jnp.asarray(TABLE)[ids]


def given(length):
    """Texts of 0 to `length` tokens; those of a row begin with different ones."""
    rng = np.random.default_rng(1)
    texts = rng.integers(0, V, (B, K, length)).astype(np.int32)
    texts[..., 0] = [rng.permutation(V)[:K] for _ in range(B)]
    counts = np.resize([length, 1, 0, max(1, length - 1)], (B, K))
    return texts, np.arange(length) < counts[..., None]


def wanted(texts, mask, smoothing=0.0):
    """Word by word, float64[B, K]."""
    found = np.zeros((B, K))
    for (b, k), last in np.ndenumerate(np.repeat(PROMPT[:, None], K, axis=1)):
        for token in texts[b, k][mask[b, k]]:
            row, last = LOG_P[last], token
            found[b, k] += (1 - smoothing) * row[token] + smoothing * row.mean()
    return found


def scored(texts, mask, **how):
    return np.asarray(score(read, read(PROMPT), texts, mask, Scoring(**how)))


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("first", [0, K, 9])
def test_every_text_is_the_sum_of_its_words(length, first):
    texts, mask = given(length)
    found = scored(texts, mask, first=first, label_smoothing=0.3)
    np.testing.assert_allclose(found, wanted(texts, mask, 0.3), atol=1e-5)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_the_likeliest_first_words_choose_who_is_scored(first):
    """The others are out."""
    texts, mask = given(4)
    found, whole = scored(texts, mask, first=first), wanted(texts, mask)
    begins = np.take_along_axis(LOG_P[PROMPT], texts[..., 0], axis=1)
    for row in range(B):
        order = np.argsort(-begins[row])
        best, others = order[:first], order[first:]
        np.testing.assert_allclose(found[row, best], whole[row, best], atol=1e-5)
        assert (found[row, others] == -1e9).all()


def test_few_logits_at_a_time_change_nothing(monkeypatch):
    texts, mask = given(4)
    whole = scored(texts, mask, first=0)
    for most in (1, 3 * B * 3 * V):  # a text, or three of them
        monkeypatch.setattr(scoring, "LOGITS", most)
        np.testing.assert_allclose(scored(texts, mask, first=0), whole, rtol=1e-6)

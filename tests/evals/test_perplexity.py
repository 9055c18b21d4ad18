"""Perplexity by hand: texts of unequal lengths weigh by their tokens."""

import math

import numpy as np
import pytest

from vlp_jax.evals.perplexity import Perplexity


def test_numbers_by_hand(memory_source, context):
    """ab costs 1 nat a token, abcd 2, the first of each nothing: (1 + 3 x 2 + 1) / 5."""
    source = memory_source([1, 2, 3], texts=[["ab"], ["abcd"], ["ab"]])

    def nats(batch):
        tokens = np.maximum((batch["text"] > 0).sum(1) - 1, 0).astype(np.float32)
        return {"loss": tokens * np.where(tokens > 1, 2, 1), "tokens": tokens}, batch["index"]

    found = Perplexity(context(), path=source)({"nats": nats})
    mean = (1 + 6 + 1) / 5
    assert found.metrics["nats_per_token"] == pytest.approx(mean)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(mean))
    assert found.metrics["bits_per_token"] == pytest.approx(mean / math.log(2))
    assert found.protocol == {"texts": 3, "tokens": 5}

"""Words of captions: the noisy-OR by hand, what counts as a word, and what training starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_batch, tiny_method

from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.rng import example_keys

METHOD = tiny_method("caption_words", start=0.1)
BATCH = jax.tree.map(jnp.asarray, tiny_batch(3))


@pytest.fixture(scope="module")
def variables():
    return Vars(*jax.jit(METHOD.fresh)(jax.random.key(0)))


def test_a_picture_lacks_a_word_only_if_all_its_tokens_do(variables):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, 259)).astype(np.float32)
    head = {"words": {"kernel": kernel, "bias": np.full(259, -4, np.float32)}}
    v = Vars({**variables.params, "head": head}, variables.extra)
    x = Inputs.of(BATCH)
    rows, _ = jax.jit(METHOD.encode)(v, x)
    tokens = np.float64(METHOD.run_image(v, x, METHOD.prepare(BATCH["image"], None))[0])
    absent = np.prod(1 - 1 / (1 + np.exp(4 - tokens @ kernel)), axis=1)
    there = np.zeros((3, 259), bool)
    for row, ids, mask in zip(there, BATCH["text"], BATCH["text_mask"], strict=True):
        row[np.asarray(ids)[np.asarray(mask)]] = True
    loss = -np.where(there, np.log(1 - absent), np.log(absent)).sum(1)
    np.testing.assert_allclose(rows["loss"], loss, rtol=1e-5)
    guess = absent < 0.5
    right = (guess & there).sum(1)
    np.testing.assert_allclose(rows["found"], right / there.sum(1), rtol=1e-6)
    np.testing.assert_allclose(rows["said"], right / guess.sum(1), rtol=1e-6)
    told = METHOD.functions()["words"].run(v, x, None)
    np.testing.assert_allclose(told, 1 - absent, atol=1e-5)


def test_neither_padding_nor_order_nor_number_counts(variables):
    x = Inputs.of(BATCH)
    mask = np.asarray(BATCH["text_mask"])
    again = np.where(mask, np.asarray(BATCH["text"]), 7)
    again[0, : mask[0].sum()] = again[0, : mask[0].sum()][::-1]
    moved = Inputs.of({**BATCH, "text": jnp.asarray(again)})
    ours, theirs = (METHOD.encode(variables, one)[0]["loss"] for one in (x, moved))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_every_word_starts_with_its_chance(variables):
    head = METHOD.parts()["head"].net
    tokens = jnp.zeros((2, 9, 64))
    absent = head.apply(head.init(jax.random.key(0), tokens), tokens)
    np.testing.assert_allclose(1 - np.exp(absent), 0.1, atol=0.005)


def test_a_certain_word_costs_no_infinity(variables):
    bias = jnp.full(259, -1e4).at[7].set(1e4)
    head = {"words": {"kernel": jnp.zeros((64, 259)), "bias": bias}}
    v = Vars({**variables.params, "head": head}, variables.extra)

    def loss(params):
        x = Inputs.of(BATCH, example_keys(jax.random.key(0), 3), train=True)
        own = Vars(params, v.extra)
        return METHOD.objective(own, METHOD.encode(own, x)[0], x)

    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(v.params)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))

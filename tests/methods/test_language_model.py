"""Training language models on texts alone: the loss by hand, shares of batches, what they write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.methods.base import make_method
from vlp_jax.train.functions import compiled

NET = dict(name="decoder_lm", vocab_size=20, width=16, num_layers=1, num_heads=2, hidden=24)
NET |= {"context_length": 12}
IDS = np.array([[1, 5, 6, 7, 2], [1, 9, 2, 0, 0], [1, 8, 8, 2, 0], [1, 2, 0, 0, 0]], np.int32)
BATCH = {"text": IDS, "text_mask": np.arange(5) < np.array([[5], [3], [4], [2]])}
SEQUENCE = dict(name="t5", vocab_size=20, width=16, num_layers=1, num_heads=2, head_dim=8)
SEQUENCE |= {"hidden": 24, "bias_buckets": 8, "bias_most": 16, "context_length": 12}


@pytest.fixture(scope="module")
def made():
    method = make_method({"name": "language_model", "lm": NET, "text_length": 5, "end_ids": (2,)})
    return method, Vars(*jax.jit(method.fresh)(jax.random.key(0)))


def inputs(method, batch, train=True):
    count = len(next(iter(batch.values())))
    x = Inputs.of(batch, example_keys(step_key(0, 1), count), step=1, train=train)
    return x.replace(totals=method.totals(x))


def by_hand(logits, ids, mask):
    """Mean cross-entropy of tokens 1, 2, ... that are real."""
    log_p = np.asarray(jax.nn.log_softmax(logits))
    rows = [-log_p[r, t - 1, ids[r, t]] for r in range(len(ids)) for t in range(1, mask[r].sum())]
    return np.mean(rows), len(rows)


def test_the_loss_is_that_of_every_next_token_that_is_real(made):
    method, v = made
    x = inputs(method, BATCH)
    loss, aux = jax.jit(method.loss)(v, x)
    logits = compiled(method, "lm_logits")(*v, BATCH)
    wanted, count = by_hand(logits, IDS, BATCH["text_mask"])
    assert loss == pytest.approx(wanted, rel=1e-5) and count == 10
    assert aux.metrics["nats"] == pytest.approx(wanted, rel=1e-5)
    nats = compiled(method, "nats")(*v, BATCH)
    assert nats["loss"].sum() / nats["tokens"].sum() == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_array_equal(nats["tokens"], [4, 2, 3, 1])


def test_parts_of_a_batch_add_up_however_long_their_texts(made):
    method, v = made
    whole, loss = inputs(method, BATCH), jax.jit(method.loss)
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        x = inputs(method, {name: a[rows] for name, a in BATCH.items()})
        parts.append(loss(v, x.replace(totals=whole.totals))[0])
    assert float(sum(parts)) == pytest.approx(float(loss(v, whole)[0]), rel=1e-5)


def test_what_is_written_is_the_likeliest_of_its_own_logits(made):
    """After prompts of one and three tokens and, by start_id, after none."""
    method, v = made
    method = make_method({"name": "language_model", "lm": NET, "start_id": 4})
    prompt = np.array([[1, 0, 0], [5, 6, 7], [0, 0, 0]], np.int32)
    mask = np.arange(3) < np.array([[1], [3], [0]])
    batch = {"prompt": prompt, "prompt_mask": mask}
    out = compiled(method, "generate_text")(*v, batch, how={"max_new": 3})
    ids = np.zeros((3, 6), np.int32)
    for row, begun in enumerate(([1], [5, 6, 7], [4])):
        ids[row, : len(begun) + 3] = [*begun, *out["ids"][row, 0].tolist()]
    next_ids = np.asarray(compiled(method, "lm_logits")(*v, {"text": ids})).argmax(-1)
    for row, last in enumerate((0, 2, 0)):
        assert next_ids[row, last : last + 3].tolist() == out["ids"][row, 0].tolist()


def test_an_encoder_and_a_decoder(made):
    method = make_method({"name": "text_to_text", "lm": SEQUENCE, "start_id": 0, "end_ids": (2,)})
    v = Vars(*jax.jit(method.fresh)(jax.random.key(0)))
    target = {"target": IDS, "target_mask": BATCH["text_mask"]}
    x = inputs(method, {**BATCH, **target})
    loss, _ = jax.jit(method.loss)(v, x)
    before = np.pad(IDS[:, :-1], ((0, 0), (1, 0)))
    logits = compiled(method, "lm_logits")(*v, {**BATCH, "target": before})
    log_p = np.asarray(jax.nn.log_softmax(logits))
    cost = -np.take_along_axis(log_p, IDS[..., None], axis=2)[..., 0]
    assert loss == pytest.approx(cost[BATCH["text_mask"]].mean(), rel=1e-5)
    gradient = jax.jit(jax.grad(lambda p: method.loss(Vars(p, {}), x)[0]))(v.params)
    assert all(jnp.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(text_length=13), "method.text_length=13: the language model takes 12 tokens"),
        (dict(end_ids=(20,)), "method.end_ids=20: no id below method.lm.vocab_size=20"),
        (dict(start_id=-2), "method.start_id=-2: no id below"),
        (dict(lm={**NET, "widht": 3}), "method.lm.widht: unknown key; did you mean 'width'"),
    ],
)
def test_what_does_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        make_method({"name": "language_model", "lm": NET, **fields})

"""Answers to questions: the loss of each by its share, for any split of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.fields.base import Setup, make_readers
from vlp_jax.data.text import load_tokenizer
from vlp_jax.methods.base import make_method
from vlp_jax.models.flops import med_flops
from vlp_jax.train.gradient import loss_and_gradient

B, T, K, TA, V = 4, 6, 3, 5, 30


def method(dropout=0.0, **changes):
    image = dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=1, head_width=8)
    image |= dict(pool="none", cls_token=True, pre_norm=False, norm_eps=1e-6)
    text = dict(name="med", vocab_size=V, context_length=12, width=16, num_layers=1, num_heads=2)
    text["dropout"] = dropout
    texts = {"text": text | {"roles": "encoder"}, "answer": text | {"roles": "decoder"}}
    sizes = dict(text_length=T, answers=K, answer_length=TA, end_id=2)
    return make_method(dict(name="blip_vqa", image=image) | texts | sizes | changes)


def batch():
    rng = np.random.default_rng(0)
    ids = lambda *shape: rng.integers(3, V - 2, shape).astype(np.int32)  # noqa: E731
    text, answer = ids(B, T), ids(B, K, TA)
    text[:, 0], answer[:, :, 0] = V - 1, V - 2
    lengths = rng.integers(2, TA + 1, (B, K))
    found = dict(
        image=rng.integers(0, 256, (B, 16, 16, 3), np.uint8),
        text=text,
        text_mask=np.arange(T) < rng.integers(3, T + 1, B)[:, None],
        answer=answer,
        answer_mask=np.arange(TA) < lengths[..., None],
        answer_weight=np.float32([[0.6, 0.3, 0.1], [1, 0, 0], [0.5, 0.5, 0], [0.4, 0.3, 0.2]]),
    )
    return jax.tree.map(jnp.asarray, found)


def gradient(made, v, accumulate=1):
    def fn(params, batch):
        keys = example_keys(step_key(0, 3), B)
        x = Inputs.of(batch, keys, step=jnp.int32(3), train=True)
        x = x.replace(totals=made.totals(x))
        return loss_and_gradient(made, params, {}, v.extra, x, accumulate)

    loss, aux, slope = jax.jit(fn)(v.params, batch())
    return float(loss), dict(aux.metrics), flatten(slope)


@pytest.fixture(scope="module")
def start():
    return jax.jit(method().fresh)(jax.random.key(0))


def test_each_answer_costs_its_summed_loss_by_its_share(start):
    made, data = method(), batch()
    loss, metrics, slope = gradient(made, start)
    logits = jax.jit(made.functions()["answer_logits"])
    wanted, plain = 0.0, 0.0
    for k in range(K):
        one = {**data, "answer": data["answer"][:, k], "answer_mask": data["answer_mask"][:, k]}
        log_p = jax.nn.log_softmax(logits(Vars(*start), Inputs.of(one)))[:, :-1]
        log_p, ids = np.asarray(log_p, np.float64), np.asarray(one["answer"])[:, 1:]
        hot = np.eye(V)[ids]
        for smooth in (0.1, 0.0):
            each = -((1 - smooth) * hot + smooth / V) * log_p
            told = (each.sum(-1) * np.asarray(one["answer_mask"])[:, 1:]).sum(1)
            cost = (told * np.asarray(data["answer_weight"])[:, k]).sum() / B
            wanted, plain = (wanted + cost, plain) if smooth else (wanted, plain + cost)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert float(metrics["unsmoothed"]) == pytest.approx(plain, rel=1e-5)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in slope.values())


def test_micro_batches_change_nothing_with_dropout_on(start):
    made = method(dropout=0.2)
    one, two = gradient(made, start), gradient(made, start, 2)
    assert two[0] == pytest.approx(one[0], rel=1e-6)
    scale = max(float(jnp.abs(leaf).max()) for leaf in one[2].values())
    for path, leaf in one[2].items():
        np.testing.assert_allclose(two[2][path], leaf, atol=1e-6 * scale, err_msg=path)


def test_two_networks_that_do_not_go_together():
    text = method().text
    for part, odd, message in (
        ("text", {"roles": "both"}, "method.text.roles='both': must be 'encoder'"),
        ("answer", {}, "method.answer.roles='encoder': must be 'decoder'"),
        ("answer", {"roles": "decoder", "vocab_size": 31}, "vocab_size=31: must be .*size=30"),
    ):
        with pytest.raises(UserError, match=message):
            method(**{part: {**text, **odd}})


@pytest.mark.parametrize("part", ["text", "answer"])
def test_texts_longer_than_their_network_takes(part):
    message = f"method.{part}_length=13: must be at most method.{part}.context_length=12"
    method(**{f"{part}_length": 12}).check_batch(1)
    with pytest.raises(UserError, match=message):
        method(**{f"{part}_length": 13}).check_batch(1)


def test_an_answer_more_costs_a_reading_of_the_questions_states():
    made = method()
    one = med_flops(made.answer_net, "decode", TA, (T, made.text_net.width))
    assert method(answers=K + 1).flops() - made.flops() == pytest.approx(one)


def test_the_commonest_answers_come_with_their_shares(tmp_path):
    """Of those that say something once they are cleaned."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "two", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = load_tokenizer(str(tmp_path / "vocab.txt"), 4, clean="blip")
    field = Text(4, 30, mask=True, count=2, mark=28)
    setup = Setup({"fields": {"answer": {"key": "answers"}}}, {"answer": tokenizer})
    reader = make_readers({"answer": field}, setup)["answer"]
    answers = [["red"] * 5 + ["blue"] * 3 + ["two"] * 2 + ["..."] * 6, ["dog"]]
    read = lambda a: reader.read({"text": [], "meta": {"answers": a}, "key": "k"}, None, {})  # noqa: E731
    found = reader.arrays([read(a) for a in answers])
    for a, reason in ((["!"], "empty_caption"), ([], "no_caption"), ([True], "boolean_text")):
        with pytest.raises(DamagedSample, match=reason):
            read(a)
    assert found["answer"].tolist() == [
        [[28, 5, 3, 0], [28, 6, 3, 0]],
        [[28, 8, 3, 0], [28, 8, 3, 0]],
    ]
    np.testing.assert_allclose(found["answer_weight"], [[0.5, 0.3], [1, 0]])
    assert found["answer_mask"].sum() == 12
    spec = field.spec("answer", 2)
    assert {n: (a.shape, str(a.dtype)) for n, a in found.items()} == {
        n: (s.shape, str(s.dtype)) for n, s in spec.items()
    }

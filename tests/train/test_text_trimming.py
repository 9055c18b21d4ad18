"""Training on texts cut to a bucket: the same losses, one program per length, the same resume."""

import jax
import numpy as np
import pytest
from small_runs import digests
from test_loop import lines, loop_of, losses, run
from tiny import LENGTH, tiny_batch, tiny_method

from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.rng import example_keys

CUT = 8


def short_batch(size):
    """Texts that end within CUT tokens, zeros after them."""
    batch = tiny_batch(size)
    ends = np.random.default_rng(1).integers(2, CUT, size)
    batch["text"] = np.where(np.arange(LENGTH) > ends[:, None], 0, batch["text"])
    batch["text"] = np.where(batch["text"] == 258, 7, batch["text"])
    batch["text"][np.arange(size), ends] = 258
    return {**batch, "text_mask": np.arange(LENGTH) <= ends[:, None]}


BERT = {"name": "bert", "pooler": False, "num_layers": 1}


@pytest.mark.parametrize("text", [{}, BERT, BERT | {"pool": "mean"}])
@pytest.mark.parametrize("rng", [None, example_keys(jax.random.key(2), 6)], ids=["eval", "train"])
def test_embeddings_and_loss_do_not_see_the_padding(text, rng):
    method = tiny_method(text={"dropout": 0.2} | text, image={"dropout": 0.2})
    field = method.fields()["text"]
    assert field.cut and field.mask == ("name" in text)
    batch = {k: a for k, a in short_batch(6).items() if k in method.batch_spec(6)}
    params, extra = method.init(jax.random.key(0))

    def loss(params, batch):
        v, x = Vars(params, extra), Inputs.of(batch, rng, train=rng is not None)
        return method.loss(v, x)[0], method.encode_text(v, x)[0]

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (full, rows), gradient = run(params, batch)
    less = {k: a[:, :CUT] if k.startswith("text") else a for k, a in batch.items()}
    (cut, short), less = run(params, less)
    np.testing.assert_allclose(short, rows, atol=1e-6)
    assert float(cut) == pytest.approx(float(full), rel=1e-6)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(less), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize(
    "text, name", [({"causal": False}, "clip"), ({"pool": "last"}, "clip"), ({}, "siglip")]
)
def test_towers_that_see_padding_are_never_trimmed(text, name):
    text = {"causal": False, "pool": "last", **text} if name == "siglip" else text
    assert not tiny_method(name, text=text).fields()["text"].cut


def test_flops_count_the_tokens_that_run():
    method = tiny_method()
    assert method.flops() == method.flops(LENGTH) > method.flops(CUT) > 0


def test_training_on_buckets_gives_the_losses_of_full_texts(make_trainer, tmp_path):
    plain = run(make_trainer(steps=6, **{"data.buckets": "()"}), tmp_path / "plain")
    assert plain.trainer.pipeline.buckets is None
    trainer = make_trainer(steps=6, **{"data.buckets": "(7, 8)"})
    whole = run(trainer, tmp_path / "whole")
    assert [x[1] for x in losses(tmp_path / "whole")] == pytest.approx(
        [x[1] for x in losses(tmp_path / "plain")], rel=1e-5
    )
    assert set(trainer._programs) <= {((7,), ()), ((8,), ())}
    again = make_trainer(steps=6, **{"data.buckets": "(7, 8)"})
    run(again, tmp_path / "parts", until=3)
    parts = run(again, tmp_path / "parts")
    assert digests(parts.state) == digests(whole.state)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_one_program_per_length_compiled_outside_the_measured_time(make_trainer, tmp_path):
    trainer = make_trainer(steps=4, **{"data.buckets": "(8, 10)"})
    trainer.pipeline.buckets.at = lambda step: (8, 10)[step % 2]
    loop, clock, steps = loop_of(trainer, tmp_path), [0.0], []
    loop.meter.pause, loop.meter.resume = lambda: clock[0], lambda start: steps.append("out")
    loop.meter.step, loop.meter.wait = steps.append, lambda seconds: steps.append("wait")
    loop.run()
    assert list(trainer._programs) == [((8,), ()), ((10,), ())] and len(lines(tmp_path)) == 4
    measured = [s for s in steps if s not in ("out", "wait")]
    assert measured == [8, 10, 8, 10] and steps[:3] == ["wait", "out", 8]
    assert steps.count("wait") == 4

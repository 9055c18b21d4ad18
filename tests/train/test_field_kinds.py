"""Methods without pictures, or without a text called so, train as others do."""

import dataclasses
import json
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import base
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Numbers, Text
from vlp_jax.core.inputs import Aux
from vlp_jax.data.device import to_device
from vlp_jax.methods.base import Leaf, Method, Part
from vlp_jax.parallel.mesh import batch_sharding
from vlp_jax.train.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class TwoTexts(Method):
    """A number per byte; those of a caption and of a question sum to the same."""

    def fields(self):
        ask = Text(9, 259, tokenizer="short", cut=True)
        return {"caption": Text(12, 259, cut=True), "ask": ask}

    def parts(self):
        return {"table": Part(Leaf(lambda rng: jax.random.normal(rng, (259,))))}

    def encode(self, v, x):
        both = (v.params["table"][x.batch[n]] * (x.batch[n] > 0) for n in ("caption", "ask"))
        caption, ask = (values.sum(1) for values in both)
        return caption - ask, Aux()

    def objective(self, v, rows, x):
        return x.share(jnp.square(rows)), Aux()


@dataclasses.dataclass(frozen=True)
class Codes(Method):
    """The mean of vectors; `weight` only where it is given."""

    def fields(self):
        return {"code": Numbers((3,)), "weight": Numbers((), optional=True)}

    def parts(self):
        return {"mean": Part(Leaf(lambda rng: jax.random.normal(rng, (3,))))}

    def encode(self, v, x):
        miss = jnp.square(x.batch["code"] - v.params["mean"]).sum(1)
        return miss * x.batch.get("weight", 1.0), Aux()

    def objective(self, v, rows, x):
        return x.share(rows), Aux()


def trainer(tmp_path, method, **data):
    """Of 8 rows whose pictures are not there, and never asked for."""
    rows = [{"image": f"{i}.png", "caption": "abc"[: i % 3 + 1], "ask": f"{i}?"} for i in range(8)]
    rows = [{**row, "code": [1, 2, i], "weight": 0} for i, row in enumerate(rows)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = base()
    config.batch_size, config.steps, config.data.path = 8, 3, str(tmp_path / "t.jsonl")
    config.data.tokenizer, config.data.context_length, config.data.buckets = "bytes", 0, (4, 5)
    config.data.tokenizers, config.data.fields = {"short": "bytes"}, data
    made = type("Toy", (Trainer,), {"method": cached_property(lambda self: method)})
    return made(config.copy_and_resolve_references())


def losses(found, steps=3):
    (state, frozen), values = found.first(), []
    for step in range(steps):
        batch = to_device(next(found.pipeline.batches(step)), batch_sharding(found.mesh))
        with jax.set_mesh(found.mesh):
            state, metrics = found.step(state, frozen, batch)
        values.append(float(metrics["loss"]))
    return batch, values


def test_two_texts_and_no_picture(tmp_path):
    found = trainer(tmp_path, TwoTexts(), ask={"key": "ask"})
    batch, values = losses(found)
    assert {k: v.shape for k, v in batch.items()} == {"caption": (8, 5), "ask": (8, 5)}
    assert values[2] < values[1] < values[0]
    assert list(found._programs) == [((5, 5), ())]
    with pytest.raises(UserError, match="no 'shrt' for the method's ask"):
        trainer(tmp_path, TwoTexts(), ask={"key": "ask", "tokenizer": "shrt"})


def test_numbers_alone(tmp_path):
    batch, values = losses(trainer(tmp_path, Codes()))
    assert np.asarray(batch["code"])[:, 2].sum() == 28 and values[2] < values[1] < values[0]
    found = trainer(tmp_path, Codes(), weight={})
    assert found.batch_spec(8).keys() == {"code", "weight"}
    assert losses(found, 1)[1] == [0.0]

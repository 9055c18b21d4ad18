"""Evaluation functions on a mesh, and evaluators that are refused before the training."""

import jax
import numpy as np
import pytest
from tiny import tiny_batch

from vlp_jax.api.init_from import other_pictures
from vlp_jax.core.errors import UserError
from vlp_jax.data.framing import Framing
from vlp_jax.evals.base import Result
from vlp_jax.train.evaluate import eval_context, make_evaluators, scalars
from vlp_jax.train.state import eval_params


def test_rows_are_the_same_on_one_and_eight_devices(make_trainer):
    batch = {"image": tiny_batch(16)["image"], "index": np.arange(16, dtype=np.int32)}
    batch["index"][-3:] = -1
    found = []
    for devices, more in ((1, {}), (8, {"sharding": "fsdp", "mesh.data": 2, "mesh.fsdp": 4})):
        trainer = make_trainer(devices, **more)
        state, frozen = trainer.first()
        fns = trainer.embedder.bind(eval_params(state, frozen), state["extra"])
        rows, index = fns["embed_image"](batch)
        assert isinstance(rows, np.ndarray) and rows.dtype == np.float32
        np.testing.assert_array_equal(index, batch["index"])
        found.append(rows)
    np.testing.assert_allclose(*found, atol=1e-5)


def test_the_moving_average_is_what_is_evaluated(make_trainer):
    state, _ = make_trainer().first()
    marked = {**state, "ema": jax.tree.map(lambda x: x + 1, state["params"])}
    assert eval_params(marked, {})["logit_scale"] == state["params"]["logit_scale"] + 1
    assert eval_params({**state, "ema": {}}, {})["logit_scale"] == state["params"]["logit_scale"]


def test_batches_are_rounded_up_to_the_devices(make_trainer):
    trainer = make_trainer(8, **{"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})
    pictures = dict(image_size=32, crop="center", resample="bicubic")
    assert eval_context(None, pictures, 5, trainer.mesh).batch_size == 8
    assert eval_context(None, pictures, 8, trainer.mesh).batch_size == 8


def test_pictures_are_framed_by_the_config_and_by_the_checkpoint(make_trainer):
    keys = {"eval_crop": "pad", "resample": "bilinear", "alpha": "drop", "fill": 3}
    trainer = make_trainer(**{f"data.image.{key}": value for key, value in keys.items()})
    wanted = Framing("pad", resample="bilinear", alpha="drop", fill=3)
    assert trainer.context.framing == wanted and trainer.context.image_size == 32
    how = dict(image_size=24, mean=(0,), crop="center_floor", share=0.8, alpha="drop")
    context = eval_context(None, how, 5, trainer.mesh)
    assert context.framing == Framing("center_floor", share=0.8, alpha="drop")
    assert context.image_size == 24


def test_a_start_from_weights_whose_pictures_were_made_otherwise_says_so(make_trainer):
    trainer = make_trainer(**{"data.image.alpha": "drop", "data.image.eval_crop": "squash"})
    method = trainer.method
    same = dict(crop="squash", resample="bicubic", alpha="drop", share=1.0, fill=0)
    same |= dict(mean=list(method.image_mean), std=method.image_std)
    assert other_pictures(same, trainer) == other_pictures({}, trainer) == []
    for change, words in (
        (dict(alpha="white"), "alpha=white, this run makes them with drop"),
        (dict(mean=(0.5, 0.5, 0.5)), "mean=(0.5, 0.5, 0.5), this run makes them with (0.48"),
        (dict(std=(0.5, 0.5, 0.5)), "std=(0.5"),
        (dict(crop="pad", fill=255), "crop=pad, this run makes them with squash"),
        (dict(share=0.875), "share=0.875"),
        (dict(resample="box"), "resample=box"),
    ):
        (line,) = other_pictures(same | change, trainer)
        assert line.startswith("its pictures were made with ") and words in line


def test_an_evaluator_that_the_method_cannot_serve_is_refused(make_trainer):
    trainer = make_trainer()

    class Blind:
        def functions(self):
            return {"embed_text": None}

    with pytest.raises(UserError, match=r"evals.mine: needs \['embed_image'\] but Blind offers"):
        configs = {"mine": {"type": "retrieval", "path": "builtin:emoji/noto-val"}}
        make_evaluators(configs, trainer.context, Blind())


def test_scalars_are_named_by_evaluator_and_metric():
    results = {"a": Result({"r1": np.float32(0.5)}), "b": Result({"top1": 1})}
    assert scalars(results) == {"eval/a/r1": 0.5, "eval/b/top1": 1.0}

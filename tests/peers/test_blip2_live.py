"""Live parity with transformers' BLIP-2 classes without a language model: random weights through
converted folders, and back; every second layer looks at the picture, or every one."""

import pathlib
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
import make_blip2_golden as golden

from vlp_jax.api.model import load_model
from vlp_jax.cli import convert
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import size
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.blip2 import ARCHS


@pytest.mark.parametrize("kind, every", [("match", 2), ("joint", 1), ("queries", 2)])
def test_both_ways(kind, every, tmp_path):
    model, given = golden.make(kind, layers=4, every=every, seed=1), golden.batch(1)
    with torch.no_grad():
        wanted = golden.computed(kind, model, given)
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=hf"]) == 0
    ours = load_model(str(tmp_path / "ours"))
    functions, v = ours.method.functions(), Vars(ours.params, ours.extra)
    batch = {name: given[name] for name in ("image", "text", "text_mask")}
    if kind != "match":
        batch = {name: given[name] for name in ("queries", "image_states")}
        batch["text"] = given["embedded"]
    asked = [name for name in wanted if name in functions]
    found = jax.jit(lambda v: {name: functions[name](v, Inputs.of(batch)) for name in asked})(v)
    for name in asked:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-5, err_msg=name)
    assert set(wanted) - set(asked) <= {"cosines"}
    back, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        again = golden.computed(kind, back.eval(), given)
    for name, rows in wanted.items():
        assert torch.equal(again[name], rows), name


def test_the_eye_of_the_released_size():
    """Counted as transformers builds it, without its last norm (image_norm here)."""
    import transformers

    with torch.device("meta"):
        theirs = transformers.Blip2VisionModel(transformers.Blip2VisionConfig())
        asked = transformers.Blip2QFormerModel(transformers.Blip2QFormerConfig())
    method = make_method({"name": "blip2", **ARCHS["blip2-vit-g"]})
    params = jax.eval_shape(method.init, jax.random.key(0))[0]
    count = sum(p.numel() for p in theirs.parameters())
    assert size(params["image"]) + size(params["image_norm"]) == count == 985_952_256
    assert sum(p.numel() for p in asked.parameters()) == 105_137_664

"""Tiny models of open_clip and transformers: their weights in our models give their embeddings.

tests/golden/make_clip_golden.py made the files; the live peers (tests/peers) repeat this at full
size.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.interop.detect import open_checkpoint
from vlp_jax.interop.rules import to_ours, to_theirs
from vlp_jax.methods.base import make_method

FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "clip"
KINDS = {
    "open_clip_vit": "open_clip",
    "open_clip_resnet": "open_clip",
    "hf_clip": "hf_clip",
    "hf_siglip": "hf_siglip",
}


def tiny(name):
    """Returns (method, expected shapes, checkpoint, golden arrays)."""
    golden = np.load(FOLDER / f"{name}.npz")
    arch = json.loads(str(golden["arch"]))
    method = make_method({"name": "siglip" if "siglip" in name else "clip", **arch})
    params, extra = jax.eval_shape(method.init, jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in flatten({**params, **extra}).items()}
    return method, shapes, open_checkpoint(str(FOLDER / f"{name}.safetensors")), golden


@pytest.mark.parametrize("name", KINDS)
def test_embeddings_equal_the_reference(name):
    method, shapes, checkpoint, golden = tiny(name)
    assert checkpoint.family.name == KINDS[name]
    tree = unflatten(to_ours(checkpoint.table, checkpoint.state, shapes, name))
    stats = {"batch_stats": tree.pop("batch_stats")} if "batch_stats" in tree else {}
    functions, v = method.functions(), Vars(tree, stats)
    for side in ("image", "text"):
        rows = jax.jit(functions[f"embed_{side}"].run)(v, Inputs.of({side: golden[side]}))
        np.testing.assert_allclose(rows, golden[f"{side}_embedding"], atol=2e-5)


@pytest.mark.parametrize("name", KINDS)
def test_theirs_ours_theirs_is_bitwise(name):
    _, shapes, checkpoint, _ = tiny(name)
    back = to_theirs(checkpoint.table, to_ours(checkpoint.table, checkpoint.state, shapes, name))
    assert set(back) == set(checkpoint.state)
    for key, tensor in checkpoint.state.items():
        assert back[key].shape == tensor.shape, key
        np.testing.assert_array_equal(back[key], tensor.read().astype(back[key].dtype), err_msg=key)

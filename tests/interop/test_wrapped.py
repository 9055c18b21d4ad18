"""Whose tensors a file holds: prefixes, wrappers, averages beside raw weights; in pickles and in
safetensors alike."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlp_jax.core.errors import UserError
from vlp_jax.interop.detect import open_checkpoint
from vlp_jax.interop.rules import to_theirs
from vlp_jax.interop.tensors import from_arrays
from vlp_jax.interop.torch_file import read_archive
from vlp_jax.interop.wrapped import unwrap


def state(*names):
    return from_arrays({name: np.float32([i]) for i, name in enumerate(names)})


def taken(found):
    return {name: float(tensor.read()[0]) for name, tensor in found[0].items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "state_dict.", "model._orig_mod.module."]
)
def test_prefixes_that_all_names_share(prefix):
    found = unwrap(state(f"{prefix}a.b", f"{prefix}c"))
    assert taken(found) == {"a.b": 0, "c": 1} and found[1] == []


def test_a_prefix_that_only_some_names_have_stays():
    assert set(unwrap(state("module.a", "b"))[0]) == {"module.a", "b"}
    assert set(unwrap(state("text_model.a", "text_model.b"))[0]) == {"text_model.a", "text_model.b"}


@pytest.mark.parametrize("names", [("model.a", "model_ema.module.a"), ("a", "ema.a")])
def test_raw_and_averaged_weights_in_one_file(names):
    both = state(*names, "epoch") if names[0] != "a" else state(*names)
    found = unwrap(both)
    assert taken(found) == {"a": 0}
    *left, note = found[1]
    assert left == (["1 tensors beside 'model' are not read (epoch)"] if "epoch" in both else [])
    assert "raw and averaged weights" in note and "--weights=ema" in note
    assert taken(unwrap(both, "raw")) == {"a": 0} and unwrap(both, "raw")[1] == left
    averaged = unwrap(both, "ema")
    assert taken(averaged) == {"a": 1} and "averaged weights" in averaged[1][0]


def test_averages_alone_are_taken_and_said():
    found = unwrap(state("ema_model.n_averaged", "ema_model.module.a"))
    assert taken(found) == {"a": 1} and "'ema_model'" in found[1][0]
    with pytest.raises(UserError, match="--weights=raw: F holds averaged weights alone"):
        unwrap(state("ema.a"), "raw", "F")
    with pytest.raises(UserError, match="--weights=ema: F holds no averaged weights"):
        unwrap(state("model.a"), "ema", "F")


def test_nested_dictionaries_of_an_archive(archive, ops):
    one = lambda key: ops["state_dict"]({"a": ops["tensor"](key, "FloatStorage", 1, (1,), (1,))})  # noqa: E731
    parts = {"model": one("0"), "model_ema": one("1"), "optimizer": one("2")}
    body = b"}(" + b"".join(ops["text"](name) + part for name, part in parts.items()) + b"u"
    storages = {str(i): np.float32(i).tobytes() for i in range(3)}
    found = read_archive(archive(body, storages))
    assert {name: float(t.read()[0]) for name, t in found.items()} == {
        "model.a": 0,
        "model_ema.a": 1,
    }


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_safetensors_under_a_prefix_are_known(prefix, tiny_tree, tmp_path, tiny_table):
    weights = to_theirs(tiny_table("hf_clip"), tiny_tree("hf_clip"))
    save_file({prefix + name: array for name, array in weights.items()}, tmp_path / "x.safetensors")
    found = open_checkpoint(str(tmp_path / "x.safetensors"))
    assert found.family.name == "hf_clip" and set(found.state) == set(weights)


def test_a_checkpoint_says_which_weights_it_took(tiny_tree, tmp_path, tiny_table):
    weights = to_theirs(tiny_table("open_clip"), tiny_tree("open_clip"))
    both = {f"model.{name}": array for name, array in weights.items()}
    both |= {f"ema.{name}": np.asarray(array + 1) for name, array in weights.items()}
    save_file(both, tmp_path / "x.safetensors")
    raw = open_checkpoint(str(tmp_path / "x.safetensors"))
    averaged = open_checkpoint(str(tmp_path / "x.safetensors"), "ema")
    assert "raw are taken" in raw.notes[0] and "('ema') are taken" in averaged.notes[0]
    name = "visual.class_embedding"
    np.testing.assert_array_equal(raw.state[name].read(), weights[name])
    np.testing.assert_array_equal(averaged.state[name].read(), weights[name] + 1)

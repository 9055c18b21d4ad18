"""What a file or folder is found to be, and the switches that its config files set."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlp_jax.core.errors import UserError
from vlp_jax.interop.detect import FAMILIES, open_checkpoint
from vlp_jax.interop.preprocess import CLIP_STD, SOURCE
from vlp_jax.interop.rules import to_theirs

KINDS = {"open_clip": "open_clip", "resnet": "open_clip", "hf_clip": "hf_clip",
         "open_clip_siglip": "open_clip_siglip", "hf_siglip": "hf_siglip"}  # fmt: skip


@pytest.fixture
def write(tiny_tree):
    """f(name, path) writes that family's tiny weights."""

    def to(name, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(to_theirs(FAMILIES[KINDS[name]], tiny_tree(name)), path)
        return str(path)

    return to


@pytest.mark.parametrize("name", KINDS)
def test_kind_by_tensor_names(name, write, tmp_path):
    checkpoint = open_checkpoint(write(name, tmp_path / "any.safetensors"))
    assert checkpoint.kind == KINDS[name]
    assert checkpoint.config == {} and checkpoint.preprocessing == {}
    gelu = {"activation": "gelu"}
    expected = (
        {"image": gelu, "text": gelu} if name == "open_clip_siglip" else {"image": {}, "text": {}}
    )
    assert checkpoint.arch_changes() == expected


def test_hugging_face_folder(write, tmp_path):
    write("hf_clip", tmp_path / "model.safetensors")
    vision = {
        "hidden_act": "gelu",
        "num_attention_heads": 2,
        "hidden_size": 16,
        "layer_norm_eps": 1e-6,
    }
    text = {
        "hidden_act": "quick_gelu",
        "num_attention_heads": 4,
        "vocab_size": 50,
        "eos_token_id": 49,
    }
    config = {"model_type": "clip", "vision_config": vision, "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pictures = {"image_mean": [0.1, 0.2, 0.3], "resample": 2, "size": {"shortest_edge": 20}}
    pictures["crop_size"] = 16
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pictures))
    (tmp_path / "tokenizer.json").write_text("{}")
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.arch_changes() == {
        "image": {"activation": "gelu", "norm_eps": 1e-6, "head_width": 8},
        "text": {"activation": "quick_gelu", "norm_eps": 1e-5, "num_heads": 4},
    }
    assert checkpoint.preprocessing == SOURCE | {
        "mean": (0.1, 0.2, 0.3),
        "std": CLIP_STD,
        "resample": "bilinear",
        "crop": "center_floor",
        "share": 0.8,
        "image_size": 16,
    }
    assert checkpoint.tokenizer_file == str(tmp_path / "tokenizer.json")
    for key, value, message in (
        ("hidden_act", "gelu_new", "hidden_act 'gelu_new'"),
        ("eos_token_id", 7, "eos_token_id 7"),
    ):
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"text_config": text | {key: value}})
        )
        with pytest.raises(UserError, match=message):
            open_checkpoint(str(tmp_path)).arch_changes()
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"text_config": text | {"eos_token_id": 2}})
    )
    assert open_checkpoint(str(tmp_path)).arch_changes()["text"]["num_heads"] == 4


def test_the_file_of_a_processor_comes_before_that_of_its_pictures(write, tmp_path):
    """As transformers takes them; only newer folders have the first, some without pictures."""
    write("hf_siglip", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    files = {"processor": {"processor_class": "x"}, "preprocessor": {"resample": 2}}
    for name, content in files.items():
        (tmp_path / f"{name}_config.json").write_text(json.dumps(content))
    said = open_checkpoint(str(tmp_path)).preprocessing
    assert said["resample"] == "bilinear" and said["crop"] == "squash"  # SigLIP's own class
    nested = {"image_processor": {"resample": 1, "image_processor_type": "CLIPImageProcessorFast"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    said = open_checkpoint(str(tmp_path)).preprocessing
    assert said["resample"] == "lanczos" and said["crop"] == "center_floor"


def test_open_clip_folder(write, tmp_path):
    write("open_clip", tmp_path / "open_clip_model.safetensors")
    config = {
        "model_cfg": {"quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5] * 3, "resize_mode": "squash"},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(str(tmp_path))
    quick = {"activation": "quick_gelu"}
    assert checkpoint.arch_changes() == {"image": quick, "text": quick}
    said = {"mean": (0.5,) * 3, "crop": "squash", "std": CLIP_STD, "resample": "bicubic"}
    assert checkpoint.preprocessing == SOURCE | said
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"preprocess_cfg": {"resize_mode": "squish"}})
    )
    with pytest.raises(UserError, match="did you mean 'squash'"):
        open_checkpoint(str(tmp_path))


def test_a_native_text_tower_under_its_own_prefix(write, tiny_tree, tmp_path):
    weights = to_theirs(FAMILIES["open_clip"], tiny_tree("open_clip"))
    moved = {
        name if name.startswith(("visual", "logit")) else f"text.{name}": a
        for name, a in weights.items()
    }
    save_file(moved, tmp_path / "x.safetensors")
    assert set(open_checkpoint(str(tmp_path / "x.safetensors")).state) == set(weights)


def test_what_is_refused(write, tmp_path):
    (tmp_path / "empty").mkdir()
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "other.safetensors")
    np.savez(tmp_path / "objects.npz", a=np.array([{"b": 1}], dtype=object))
    write("hf_clip", tmp_path / "two" / "a.safetensors")
    write("hf_clip", tmp_path / "two" / "b.safetensors")
    cases = {
        "none": "no such file or folder",
        "empty": "no weights file",
        "other.safetensors": "neither an open_clip nor a Hugging Face",
        "objects.npz": "numpy archives are not read",
        "two": "several weights files",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            open_checkpoint(str(tmp_path / name))
        assert name in str(error.value) and "\n" not in str(error.value)


def test_safetensors_are_preferred_to_pickles(write, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    write("hf_clip", tmp_path / "model.safetensors")
    assert open_checkpoint(str(tmp_path)).path.endswith("model.safetensors")

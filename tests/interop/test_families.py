"""A family is one file: found by its name, recognised by its tensors, written by what it takes."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlp_jax.api.convert import convert
from vlp_jax.api.export import formats
from vlp_jax.api.model import load_model
from vlp_jax.core.errors import UserError
from vlp_jax.interop import families as folder
from vlp_jax.interop.family import Beside, families, recognise
from vlp_jax.interop.tensors import from_arrays

TOY = """
from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import blocks, norm, patches
from vlp_jax.interop.family import Family
from vlp_jax.interop.rules import Rule, Table

VIT = dict(name="vit", image_size=16, patch_size=8, width=8, num_layers=1, head_width=4,
           pool="gap", pre_norm=False, conv_bias=True)

class Toy(Family):
    has = ("toy.places",)
    archs, methods = "vit", ("encoder",)
    config_name, weights_name = "toy.json", "toy.safetensors"
    library = to = "toy"
    release = preprocess.SIGLIP

    def table(self, names):
        body = blocks("image", "toy.{i}", ("qkv.weight", "qkv.bias"), "out", ("a", "b"), ("c", "d"))
        ends = (*patches("image/patch_embed", "toy.patch"), *norm("image/norm_post", "toy.norm"))
        return Table("Toy", (Rule("image/pos_embed", "toy.places"), *ends, *body))

    def method(self, config, where):
        return {"name": "encoder", "image": VIT | config["image"]} if config else {}

    def configs(self, method, pictures, tokenizer):
        return {"toy.json": {"image": {"width": method["image"]["width"]}}}

    def rebuilt(self, configs):
        return self.method(configs["toy.json"], ""), self.release

FAMILY = Toy()
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A family in a folder of its own."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "toy.py").write_text(TOY)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path / "more")])
    return families()["toy"]


def test_a_family_is_added_by_adding_a_file(toy, tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"toy.places": (4, 8), "toy.patch.weight": (8, 3, 8, 8), "toy.patch.bias": (8,)}
    for name, rows in {"qkv": 24, "out": 8, "c": 32}.items():
        shapes |= {f"toy.0.{name}.weight": (rows, 8), f"toy.0.{name}.bias": (rows,)}
    shapes |= {"toy.0.d.weight": (8, 32), "toy.0.d.bias": (8,)}
    for name in ("toy.norm", "toy.0.a", "toy.0.b"):
        shapes |= {f"{name}.weight": (8,), f"{name}.bias": (8,)}
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    (tmp_path / "in").mkdir()
    save_file(state, tmp_path / "in" / "toy.safetensors")
    (tmp_path / "in" / "toy.json").write_text('{"image": {"width": 8}}')
    report = convert(str(tmp_path / "in"), str(tmp_path / "ours"))
    assert report["source"]["kind"] == "toy" and "toy" in formats()
    assert load_model(str(tmp_path / "ours")).method.side == "image"
    convert(str(tmp_path / "ours"), str(tmp_path / "back"), to="toy")
    back = load_file(tmp_path / "back" / "toy.safetensors")
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[name], array) for name, array in state.items())


def test_a_file_that_two_families_know_is_refused(toy):
    names = ("toy.places", "visual.trunk.attn_pool.latent")
    state = from_arrays({name: np.zeros(1, np.float32) for name in names})
    with pytest.raises(UserError, match=r"F: its tensors are those of open_clip_siglip and toy"):
        recognise(state, False, "F")


@pytest.mark.parametrize("name", ["hf_siglip", "open_clip_siglip"])
def test_texts_of_siglip_lose_punctuation_and_are_padded_by_the_end(name):
    """As google/siglip's T5 tokenizer does, whose </s> is 1."""
    options = families()[name].tokenizer_options
    assert options(Beside(), "x.model", 32000, "siglip") == {"clean": "canonicalize", "pad_id": 1}
    assert options(Beside(), "x.model", 500, "siglip") == {"clean": "canonicalize"}


def test_every_family_says_itself():
    for name, family in families().items():
        assert family.name == name and family.has and family.methods and family.archs
        assert not family.to or (family.alone or family.config_name)

"""Exports: every switch that the other library's config cannot say is refused by name with nothing
written; what it can say is in the config; own sizes come back without --arch."""

import json
import os

import numpy as np
import pytest

from vlp_jax.api import export
from vlp_jax.api.released import read_released
from vlp_jax.api.switches import computed, described, unlike
from vlp_jax.api.weights import expected_shapes
from vlp_jax.augment.pictures import CLIP_MEAN, CLIP_STD
from vlp_jax.cli import convert
from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.text import load_tokenizer
from vlp_jax.interop import open_clip_config
from vlp_jax.interop.weights_file import read_safetensors
from vlp_jax.methods.base import make_method
from vlp_jax.nn.positions import sincos_table

IMAGE = dict(name="vit", image_size=16, patch_size=8, width=16, num_layers=1, head_width=8)
TEXT = dict(name="text", vocab_size=300, context_length=12, width=8, num_layers=1, num_heads=2)
PICTURES = dict(mean=CLIP_MEAN, std=CLIP_STD, crop="center", resample="bicubic", image_size=16)
MAP = dict(pool="map", pre_norm=False, conv_bias=True, project=False)
SIGLIP = dict(causal=False, pool="last", head_bias=True, width=16)


def write(out, to, image=None, text=None, **how):
    """Exports a random model of these switches; returns (method config, arrays, notes)."""
    config = {"name": how.get("name", "clip"), "embed_dim": how.get("embed_dim", 12)}
    config |= {"image": IMAGE | (image or {}), "text": TEXT | (text or {})}
    rng = np.random.default_rng(0)
    shapes = {"logit_bias": ()} if config["name"] == "siglip" else {}
    if not how.get("refused"):
        shapes = expected_shapes(make_method(config))
    arrays = {p: rng.normal(0, 0.3, shape).astype(np.float32) for p, shape in shapes.items()}
    config |= {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    manifest = {"method": config, "preprocessing": PICTURES | how.get("pictures", {})}
    if "tokenizer" in how:
        manifest["tokenizer"] = dict(name=how["tokenizer"], context_length=12) | how.get("spec", {})
    return config, arrays, export.write(str(out), to, arrays, manifest)


REFUSED = {
    "open_clip": [
        ({}, {"pool": "mean"}, "method.text.pool='mean'"),
        ({"pool": "gap"}, {}, "method.image.cls_token=False (it would build True)"),
        ({"pool": "gap_norm"}, {}, "method.image.cls_token=False"),
        ({"conv_bias": True}, {}, "method.image.conv_bias=True (it would build False)"),
        ({"head_bias": True}, {}, "method.image.head_bias=True"),
        ({"activation": "quick_gelu"}, {}, "method.text.activation='gelu'"),
        ({}, {"activation": "quick_gelu"}, "method.image.activation='gelu'"),
        ({"activation": "relu"}, {}, "method.image.activation='relu'"),
        ({}, {"activation": "silu"}, "method.text.activation='silu'"),
        ({"project": False, "width": 12, "head_width": 4}, {}, "method.image.embed_dim=0"),
        ({"pool": "none"}, {}, "method.image.pool='none'"),
        (MAP, SIGLIP, "method.image.pool='map' needs one of timm's SigLIP trunks"),
        ({"name": "resnet_v1"}, {}, "has no image tower 'resnet_v1'"),
    ],
    "hf": [
        ({}, {"pool": "mean"}, "method.text.pool='mean' (it would build 'argmax')"),
        ({}, {"pool": "first"}, "method.text.pool='first'"),
        ({}, {"causal": False}, "method.text.causal=False"),
        ({}, {"head_bias": True}, "method.text.head_bias=True"),
        ({}, {"project": False, "width": 12}, "method.text.embed_dim=0"),
        ({"pool": "gap", "cls_token": True}, {}, "method.image.pool='gap'"),
        ({"pool": "gap_norm", "cls_token": True}, {}, "method.image.pool='gap_norm'"),
        ({"pre_norm": False}, {}, "method.image.pre_norm=False"),
        ({"conv_bias": True}, {}, "method.image.conv_bias=True"),
        ({"head_bias": True}, {}, "method.image.head_bias=True"),
        (MAP, SIGLIP, "SiglipModel cannot be method.name='clip' with no logit_bias"),
        ({"name": "resnet_v1"}, {}, "transformers has no ResNet"),
    ],
}  # fmt: skip
SIGMOID = [
    ("hf", {}, {}, "CLIPModel cannot be method.name='siglip' with a logit_bias"),
    ("hf", MAP | {"project": True}, SIGLIP, "method.image.embed_dim=16 (it would build 0)"),
    ("hf", MAP, SIGLIP | {"causal": True}, "method.text.causal=True"),
    ("hf", MAP, SIGLIP | {"pool": "argmax"}, "method.text.pool='argmax'"),
    ("hf", MAP, SIGLIP | {"head_bias": False}, "method.text.head_bias=False"),
    ("hf", MAP | {"pre_norm": True}, SIGLIP, "method.image.pre_norm=True"),
]


@pytest.mark.parametrize("to", REFUSED)
def test_switches_that_a_config_cannot_say_are_refused_by_name(to, tmp_path):
    for image, text, message in REFUSED[to]:
        if image.get("name") == "resnet_v1":
            image = {"name": "resnet_v1", "image_size": 32, "depth": 18}
            config = {"name": "clip", "embed_dim": 12, "image": image, "text": TEXT}
            attempt = lambda c=config: export.write(  # noqa: E731
                str(tmp_path / "out"), to, {}, {"method": c, "preprocessing": PICTURES}
            )
        else:
            attempt = lambda i=image, t=text: write(  # noqa: E731
                tmp_path / "out", to, i, t, refused=True
            )
        with pytest.raises(UserError) as error:
            attempt()
        assert message in str(error.value) and str(error.value).startswith(f"--to={to}")
        assert "\n" not in str(error.value) and os.listdir(tmp_path) == []


@pytest.mark.parametrize("to, image, text, message", SIGMOID)
def test_a_sigmoid_model_too(to, image, text, message, tmp_path):
    with pytest.raises(UserError) as error:
        write(tmp_path / "out", to, image, text, name="siglip", embed_dim=16, refused=True)
    assert message in str(error.value) and os.listdir(tmp_path) == []


SAID = [  # switches and the keys of vision_cfg and text_cfg that say them
    (
        {"pre_norm": False, "pool": "gap", "cls_token": True},
        {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": False},
        {"causal": False, "pool": "last"},
        {"no_causal_mask": True, "pool_type": "last"},
    ),
    (
        {"pool": "gap_norm", "cls_token": True, "norm_eps": 1e-6},
        {"pool_type": "avg", "final_ln_after_pool": True, "norm_kwargs": {"eps": 1e-6}},
        {"pool": "first", "head_bias": True},
        {"pool_type": "first", "proj_bias": True},
    ),
    (
        {"pos_embed": "sincos", "activation": "gelu_tanh"},
        {"pos_embed_type": "sin_cos_2d", "act_kwargs": {"approximate": "tanh"}},
        {"project": False, "width": 12, "mlp_ratio": 2.0, "norm_eps": 1e-3},
        {"proj_type": "none", "width": 12, "mlp_ratio": 2.0, "norm_kwargs": {"eps": 1e-3}},
    ),
]


@pytest.mark.parametrize("image, vision, text, words", SAID)
def test_switches_stand_in_open_clips_config(image, vision, text, words, tmp_path):
    arrays = write(tmp_path / "out", "open_clip", image, text)[1]
    model = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
    sizes = {"image_size": 16, "width": 16, "head_width": 8, "mlp_ratio": 4.0, "patch_size": 8}
    assert model["vision_cfg"] == {"layers": 1} | sizes | vision
    length = {"context_length": 12, "vocab_size": 300, "width": 8, "heads": 2, "layers": 1}
    assert model["text_cfg"] == length | {"mlp_ratio": 4.0} | words
    written = read_safetensors(str(tmp_path / "out" / "open_clip_model.safetensors"))
    assert ("text_projection.weight" in written) == bool(text.get("head_bias"))
    assert ("text_projection" in written) == (not text.get("head_bias") and "project" not in text)
    table = written["visual.positional_embedding"].read()
    own = arrays.get("image/pos_embed", sincos_table(2, 16, prefix=1))
    np.testing.assert_array_equal(table, own)
    found, _, notes, _ = read_released(str(tmp_path / "out"), "")  # and comes back without --arch
    assert notes == ["no tokenizer beside the weights; texts will need one (--tokenizer=FILE)"]
    assert found.keys() == arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_a_bias_of_the_sigmoid_and_quick_gelu_are_said(tmp_path):
    both = {"activation": "quick_gelu"}
    write(tmp_path / "out", "open_clip", both, both, name="siglip")
    model = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
    assert model["init_logit_bias"] == -10 and model["quick_gelu"] is True
    assert open_clip_config.read(model, "x")["name"] == "siglip"


def test_other_positions_in_the_file_than_the_config_says_are_kept(tmp_path):
    from safetensors.numpy import load_file, save_file

    write(tmp_path / "out", "open_clip", {"pos_embed": "sincos"})
    file = tmp_path / "out" / "open_clip_model.safetensors"
    with pytest.raises(UserError, match="--image-size: fixed sine-cosine positions"):
        read_released(str(file), "", image_size=32)
    state = load_file(file)
    state["visual.positional_embedding"] = state["visual.positional_embedding"] + np.float32(0.01)
    save_file(state, file)
    arrays, manifest, notes, _ = read_released(str(tmp_path / "out"), "")
    assert "positions are not the fixed table" in notes[0]
    assert manifest["method"]["image"]["pos_embed"] == "learned"
    np.testing.assert_array_equal(arrays["image/pos_embed"], state["visual.positional_embedding"])


def test_every_switch_stands_in_transformers_config(tmp_path):
    image = dict(activation="silu", norm_eps=1e-3, mlp_ratio=2.5, pos_embed="sincos")
    text = dict(activation="relu", norm_eps=1e-4, mlp_ratio=3.0)
    config, _, notes = write(tmp_path / "out", "hf", image, text)
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["projection_dim"] == 12 and said["model_type"] == "clip"
    vision, words = said["vision_config"], said["text_config"]
    assert (vision["hidden_act"], vision["layer_norm_eps"]) == ("silu", 1e-3)
    assert (vision["intermediate_size"], vision["num_attention_heads"]) == (40, 2)
    assert (words["hidden_act"], words["layer_norm_eps"]) == ("relu", 1e-4)
    assert (words["intermediate_size"], words["max_position_embeddings"]) == (24, 12)
    assert words["eos_token_id"] == 299 and "no tokenizer to write" in notes[0]
    arrays, manifest, _, _ = read_released(str(tmp_path / "out"), "")
    found = unlike(computed(make_method(config)), computed(make_method(manifest["method"])))
    assert found == {"image.pos_embed": ("sincos", "learned")}
    np.testing.assert_array_equal(arrays["image/pos_embed"], sincos_table(2, 16, prefix=1))


def test_a_sigmoid_model_in_transformers_form(tmp_path):
    act = dict(activation="gelu_tanh", norm_eps=1e-6)
    how = dict(name="siglip", embed_dim=16)  # wider than the text tower: its head's own width
    words = SIGLIP | act | {"width": 8}
    config, arrays, _ = write(tmp_path / "out", "hf", MAP | act, words, **how)
    said = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert (said["hidden_size"], said["projection_size"]) == (8, 16)
    again, manifest, _, _ = read_released(str(tmp_path / "out"), "")
    assert manifest["arch"] == "siglip"
    assert unlike(computed(make_method(config)), computed(make_method(manifest["method"]))) == {}
    np.testing.assert_array_equal(again["logit_bias"], arrays["logit_bias"])
    words |= {"vocab_size": 49408}
    with pytest.raises(UserError, match="padding 0, which SigLIP's tower sees"):
        write(tmp_path / "no", "hf", MAP | act, words, **how, tokenizer="clip")


def test_means_that_the_pictures_config_says_otherwise_are_noticed(tmp_path):
    with pytest.raises(UserError, match=r"cannot say method\.image_mean="):
        write(tmp_path / "out", "open_clip", pictures={"mean": (0.5, 0.5, 0.5)})


def test_a_file_alone_says_no_sizes(tmp_path, tiny_weights):
    with pytest.raises(UserError, match="a file alone cannot say this model's sizes"):
        write(tmp_path / "x.safetensors", "open_clip")
    out = tmp_path / "x.safetensors"
    assert convert.main([str(tiny_weights), str(out), "--arch=tiny", "--to=open_clip"]) == 0
    assert sorted(read_safetensors(str(out))) == sorted(read_safetensors(str(tiny_weights)))


def test_what_was_written_is_what_is_proven(tmp_path, monkeypatch):
    """Were the reader of the written config to build another function, nothing would stay."""
    real = export.write_json

    def other(path, content):
        if path.endswith("open_clip_config.json"):
            content["model_cfg"]["text_cfg"]["pool_type"] = "first"
        real(path, content)

    monkeypatch.setattr(export, "write_json", other)
    with pytest.raises(RunError, match=r"the written config says .*text\.pool.*'first'"):
        write(tmp_path / "out", "open_clip")
    assert os.listdir(tmp_path) == []


def test_the_list_of_switches_is_whole():
    """Every field of the towers is compared but for those that only train."""
    method = make_method({"name": "clip", "embed_dim": 12, "image": IMAGE, "text": TEXT})
    own, all_fields = computed(method), described(method)
    silent = {"dropout", "weight_init", "dtype", "remat", "unroll", "attention"}
    assert set(all_fields["text"]) - set(own["text"]) == silent | {"mlp_ratio"}
    silent |= {"drop_path", "patch_dropout"}
    assert set(all_fields["image"]) - set(own["image"]) == silent | {"mlp_ratio"}
    assert own["image"]["cls_token"] is True and own["image"]["mlp_width"] == 64
    changed = unlike(own, computed(make_method({"name": "clip", "embed_dim": 16, "image": IMAGE,
                                                "text": TEXT | {"pool": "last"}})))  # fmt: skip
    assert changed == {
        "embed_dim": (12, 16),
        "image.embed_dim": (12, 16),
        "text.embed_dim": (12, 16),
        "text.pool": ("argmax", "last"),
    }


TEXTS = ["a  photo_of a Cat!", "naïve 日本", "x" * 40, "", "<|endoftext|>"]


@pytest.mark.parametrize(
    "to, file", [("hf", "config.json"), ("open_clip", "open_clip_config.json")]
)
def test_bytes_become_a_tokenizer_json_of_the_same_ids(to, file, tmp_path):
    spec = {"options": {"clean": "canonicalize"}}
    write(tmp_path / "out", to, tokenizer="bytes", spec=spec)
    ours = load_tokenizer("bytes", context_length=12, clean="canonicalize")
    theirs = load_tokenizer(str(tmp_path / "out" / "tokenizer.json"), context_length=12)
    np.testing.assert_array_equal(theirs(TEXTS[:4]), ours(TEXTS[:4]))
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert said["pad_token"] == "<|pad|>" and said["model_max_length"] == 12
    config = json.loads((tmp_path / "out" / file).read_text())
    if to == "hf":  # the end, 258, is not the largest id of 300: the largest of a row is meant
        assert config["text_config"]["eos_token_id"] == 2
    else:
        words = config["model_cfg"]["text_cfg"]
        assert words["hf_tokenizer_name"] == "."
        assert words["tokenizer_kwargs"] == {"clean": "canonicalize"}


def test_clips_vocabulary_under_transformers_names(tmp_path):
    write(tmp_path / "out", "hf", text={"vocab_size": 49408}, tokenizer="clip")
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert len(vocabulary) == 49408
    assert vocabulary["<|startoftext|>"] == 49406 and vocabulary["<|endoftext|>"] == 49407
    (cat,) = load_tokenizer("clip").encode("cat")
    assert vocabulary["cat</w>"] == cat
    lines = (tmp_path / "out" / "merges.txt").read_text().split("\n")
    assert lines[:2] == ["#version: 0.2", "i n"] and len(lines) == 48_894 + 2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["eos_token_id"] == 49407


@pytest.mark.parametrize(
    "to, name, spec, message",
    [
        ("open_clip", "clip", {"clean": "none"}, "clean='none'"),
        ("hf", "clip", {"clean": "whitespace"}, "data.tokenizer='clip' with clean='whitespace'"),
    ],
)
def test_tokenizers_that_cannot_be_said(to, name, spec, message, tmp_path):
    with pytest.raises(UserError, match=f"--to={to}: its tokenizers cannot be .*{message}"):
        write(tmp_path / "out", to, tokenizer=name, spec={"options": spec})
    assert os.listdir(tmp_path) == []

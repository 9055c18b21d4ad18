"""What a file or folder is found to be, and the switches that its config files set."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlp_jax.core.errors import UserError
from vlp_jax.interop.detect import open_checkpoint
from vlp_jax.interop.family import Beside, families
from vlp_jax.interop.preprocess import CLIP_STD, SOURCE
from vlp_jax.interop.rules import to_theirs

KINDS = {"open_clip": "open_clip", "resnet": "open_clip", "hf_clip": "hf_clip",
         "open_clip_siglip": "open_clip_siglip", "hf_siglip": "hf_siglip"}  # fmt: skip


@pytest.fixture
def write(tiny_tree, tiny_table):
    """f(name, path) writes that family's tiny weights."""

    def to(name, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(to_theirs(tiny_table(name), tiny_tree(name)), path)
        return str(path)

    return to


@pytest.mark.parametrize("name", KINDS)
def test_kind_by_tensor_names(name, write, tmp_path):
    checkpoint = open_checkpoint(write(name, tmp_path / "any.safetensors"))
    assert checkpoint.family.name == KINDS[name]
    assert checkpoint.beside.config == {} and checkpoint.preprocessing == {}
    gelu = {"activation": "gelu"}
    expected = {"image": gelu, "text": gelu} if name == "open_clip_siglip" else {}
    assert {part: said for part, said in checkpoint.switches().items() if said} == expected


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
    assert checkpoint.switches() == {
        "image": {"activation": "gelu", "norm_eps": 1e-6, "head_width": 8}
        | dict(pool="cls", pos_embed="learned", pre_norm=True),
        "text": {"activation": "quick_gelu", "norm_eps": 1e-5, "num_heads": 4}
        | dict(pool="argmax", causal=True),
    }
    assert checkpoint.preprocessing == SOURCE | {
        "mean": (0.1, 0.2, 0.3),
        "std": CLIP_STD,
        "resample": "bilinear",
        "crop": "center_floor",
        "share": 0.8,
        "image_size": 16,
    }
    assert checkpoint.beside.tokenizer == str(tmp_path / "tokenizer.json")
    for key, value, message in (
        ("hidden_act", "gelu_new", "hidden_act 'gelu_new'"),
        ("eos_token_id", 7, "eos_token_id 7"),
    ):
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"text_config": text | {key: value}})
        )
        with pytest.raises(UserError, match=message):
            open_checkpoint(str(tmp_path)).switches()
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"text_config": text | {"eos_token_id": 2}})
    )
    assert open_checkpoint(str(tmp_path)).switches()["text"]["num_heads"] == 4


def test_the_file_of_a_processor_comes_before_that_of_its_pictures(write, tmp_path):
    """As transformers takes them; only newer folders have the first, some without pictures."""
    write("hf_siglip", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
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
    assert checkpoint.switches() == {"image": quick, "text": quick}
    said = {"mean": (0.5,) * 3, "crop": "squash", "std": CLIP_STD, "resample": "bicubic"}
    assert checkpoint.preprocessing == SOURCE | said
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"preprocess_cfg": {"resize_mode": "squish"}})
    )
    with pytest.raises(UserError, match="did you mean 'squash'"):
        open_checkpoint(str(tmp_path))


def test_a_native_text_tower_under_its_own_prefix(write, tiny_tree, tmp_path, tiny_table):
    weights = to_theirs(tiny_table("open_clip"), tiny_tree("open_clip"))
    moved = {
        name if name.startswith(("visual", "logit")) else f"text.{name}": a
        for name, a in weights.items()
    }
    save_file(moved, tmp_path / "x.safetensors")
    assert set(open_checkpoint(str(tmp_path / "x.safetensors")).state) == set(weights)


def test_what_is_refused(write, tmp_path):
    (tmp_path / "empty").mkdir()
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "other.safetensors")
    some = ("query_tokens", "language_projection.weight", "vision_model.post_layernorm.bias")
    save_file({name: np.ones(1, np.float32) for name in some}, tmp_path / "part.safetensors")
    np.savez(tmp_path / "objects.npz", a=np.array([{"b": 1}], dtype=object))
    write("hf_clip", tmp_path / "two" / "a.safetensors")
    write("hf_clip", tmp_path / "two" / "b.safetensors")
    cases = {
        "none": "no such file or folder",
        "empty": "no weights file",
        "other.safetensors": "neither an open_clip nor a Hugging Face",
        "part.safetensors": "for hf_blip2_lm it lacks qformer.layernorm.weight; families",
        "objects.npz": "numpy archives are not read",
        "two": "several weights files",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            open_checkpoint(str(tmp_path / name))
        assert name in str(error.value) and "\n" not in str(error.value)


def test_where_the_weights_of_a_folder_may_be(tmp_path):
    """As in a package whose root has none: in a zip, or one folder below."""
    (tmp_path / "model.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"no weights file .*; unzip .*/model\.zip first"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"no weights file .*; give .*/models$"):
        open_checkpoint(str(tmp_path))


def test_safetensors_are_preferred_to_pickles(write, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    write("hf_clip", tmp_path / "model.safetensors")
    assert open_checkpoint(str(tmp_path)).path.endswith("model.safetensors")


CONFIG = {"model_type": "clip", "vision_config": {}, "text_config": {"hidden_act": "gelu"}}


@pytest.mark.parametrize(
    "name",
    ["model.fp16.safetensors", "pytorch_model.safetensors", "mine.safetensors"],
)
def test_weights_of_any_name_keep_the_config_beside_them(name, write, tmp_path):
    write("hf_clip", tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text("{}")
    for path in (tmp_path, tmp_path / name):
        found = open_checkpoint(str(path))
        assert found.beside.config == CONFIG and found.beside.file == str(tmp_path / "config.json")
        assert found.switches()["text"]["activation"] == "gelu"
        assert found.beside.tokenizer == str(tmp_path / "tokenizer.json")


def test_a_config_of_other_weights_is_left_and_said(write, tmp_path):
    file = write("hf_clip", tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    found = open_checkpoint(file)
    assert found.beside.config == {} and found.beside.file == ""
    assert "config.json: is of a 'bert', not of these weights" in found.notes[0]


@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("given", ["folder", "index", "shard"])
def test_shards_are_found_by_their_index(tiny_tree, tmp_path, variant, given, tiny_table):
    weights = to_theirs(tiny_table("hf_clip"), tiny_tree("hf_clip"))
    names, shards = list(weights), [f"model{variant}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    parts = dict(zip(shards, (names[:9], names[9:]), strict=True))
    for shard, part in parts.items():
        save_file({name: weights[name] for name in part}, tmp_path / shard)
    index = tmp_path / f"model.safetensors.index{variant}.json"
    weight_map = {name: shard for shard, part in parts.items() for name in part}
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    path = {"folder": tmp_path, "index": index, "shard": tmp_path / shards[1]}[given]
    found = open_checkpoint(str(path))
    assert found.path == str(index) and set(found.state) == set(weights)
    assert found.beside.config == CONFIG


def test_shards_of_pickles(archive, ops, tmp_path):
    """pytorch_model-0000N-of-0000M.bin, whose tensors are read from their own shard."""
    names = ("vision_model.embeddings.patch_embedding.weight", "logit_scale")
    shards = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for i, (name, shard) in enumerate(zip(names, shards, strict=True)):
        tensor = ops["tensor"]("0", "FloatStorage", 1, (1,), (1,))
        archive(ops["state_dict"]({name: tensor}), {"0": np.float32(i).tobytes()}, name=shard)
    index = {"weight_map": dict(zip(names, shards, strict=True))}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = open_checkpoint(str(tmp_path))
    assert found.family.name == "hf_clip" and found.beside.config == CONFIG
    assert [float(found.state[name].read()[0]) for name in names] == [0, 1]


def test_shards_without_their_index_are_named(write, tmp_path):
    for i in (1, 2):
        write("hf_clip", tmp_path / f"model-0000{i}-of-00002.safetensors")
    with pytest.raises(
        UserError, match=r"00001-of-00002.safetensors and 1 more shards, but no index"
    ):
        open_checkpoint(str(tmp_path))


HF_SIZES = {
    "image": dict(
        name="vit", image_size=224, patch_size=32, width=768, num_layers=12, head_width=64,
        mlp_ratio=4.0, activation="quick_gelu", norm_eps=1e-5, pool="cls", pos_embed="learned",
        pre_norm=True, conv_bias=False, head_bias=False,
    ),
    "text": dict(
        name="text", vocab_size=49408, context_length=77, width=512, num_layers=12, num_heads=8,
        mlp_ratio=4.0, activation="quick_gelu", norm_eps=1e-5, pool="argmax", causal=True,
        head_bias=False,
    ),
}  # fmt: skip


def test_a_config_json_says_every_size():
    """An empty one is CLIPConfig(); text_config_dict of old files takes text_config's place."""
    known = families()
    clip, siglip = known["hf_clip"].method, known["hf_siglip"].method
    assert clip({"model_type": "clip"}, "x") == {"name": "clip", "embed_dim": 512} | HF_SIZES
    old = {"text_config": {"hidden_size": 64}, "text_config_dict": {"num_hidden_layers": 3}}
    text = clip({"projection_dim": 9, **old}, "x")
    assert text["embed_dim"] == 9
    assert text["text"] == HF_SIZES["text"] | {"num_layers": 3}
    found = siglip({"model_type": "siglip", "text_config": {"hidden_size": 96}}, "x")
    assert (found["name"], found["embed_dim"]) == ("siglip", 96)
    assert found["image"] == dict(
        name="vit", image_size=224, patch_size=16, width=768, num_layers=12, head_width=64,
        mlp_ratio=4.0, activation="gelu_tanh", norm_eps=1e-6, pool="map", pos_embed="learned",
        pre_norm=False, conv_bias=True, project=False,
    )  # fmt: skip
    assert found["text"] == dict(
        name="text", vocab_size=32000, context_length=64, width=96, num_layers=12, num_heads=12,
        mlp_ratio=32.0, activation="gelu_tanh", norm_eps=1e-6, pool="last", causal=False,
        head_bias=True,
    )  # fmt: skip
    for key, value in (("num_channels", 1), ("vision_use_head", False)):
        with pytest.raises(UserError, match="only num_channels=3 and vision_use_head=true"):
            siglip({"model_type": "siglip", "vision_config": {key: value}}, "x")


def test_a_config_of_one_network_is_filled_up_by_its_class():
    """Whose norms have 1e-12, not the 1e-6 of others."""
    known = families()
    vit = known["hf_vit"].method({"model_type": "vit"}, "x")["image"]
    bert = known["bert"].method({"model_type": "bert"}, "x")["text"]
    mae = known["hf_mae"].method({"model_type": "vit_mae", "norm_pix_loss": True}, "x")
    for part in (vit, bert, mae["image"], mae["decoder"]):
        assert part["norm_eps"] == 1e-12 and part["activation"] == "gelu"
    assert (mae["norm_pix"], mae["mask_ratio"]) == (True, 0.75)
    assert mae["decoder"]["num_heads"] == 16 and mae["image"]["head_width"] == 64


WRONG = [
    ("hf_vit", {"num_attention_heads": 0}, "num_attention_heads=0 is out of range; it must be at"),
    ("hf_vit", {"image_size": None}, "image_size is None, it must be of type int"),
    ("hf_vit", {"image_size": [16, "a"]}, "image_size is 'a', it must be of type int"),
    ("hf_vit", {"layer_norm_eps": "x"}, "layer_norm_eps is 'x', it must be of type float"),
    ("hf_vit", {"layer_norm_eps": float("nan")}, "layer_norm_eps=nan is out of range"),
    ("hf_vit", {"qkv_bias": "yes"}, "qkv_bias is 'yes', it must be of type bool"),
    ("hf_vit", {"pooler_output_size": "8"}, "pooler_output_size is '8', it must be of type int"),
    ("hf_vit", {"pooler_act": "relu"}, "only pooler_act='tanh' of the hidden size is read"),
    ("hf_vit", {"pooler_output_size": 9}, "only pooler_act='tanh' of the hidden size is read"),
    ("hf_vit", {"qkv_bias": False}, "only qkv_bias=true and num_channels=3 are read"),
    ("bert", {"hidden_size": 0}, "hidden_size=0 is out of range; it must be at least 1"),
    ("bert", {"num_attention_heads": "2"}, "num_attention_heads is '2', it must be of type int"),
    ("bert", {"layer_norm_eps": None}, "layer_norm_eps is None, it must be of type float"),
    ("bert", {"hidden_act": 3}, "hidden_act is 3, it must be of type str"),
    ("bert", {"is_decoder": True}, "only position_embedding_type='absolute' and is_decoder=false"),
    ("bert", {"position_embedding_type": "relative_key"}, "only position_embedding_"),
    ("hf_mae", {"decoder_hidden_size": True}, "decoder_hidden_size is True, it must be of"),
    ("hf_mae", {"mask_ratio": -1}, "mask_ratio=-1.0 is out of range; it must be at least 0"),
    ("hf_clip", {"projection_dim": "8"}, "projection_dim is '8', it must be of type int"),
    ("hf_clip", {"text_config": [1]}, "text_config is [1], it must be a mapping"),
    ("hf_clip", {"vision_config": {"patch_size": 0}}, "vision_config: patch_size=0 is out of"),
    ("hf_siglip", {"text_config": {"projection_size": 0}}, "text_config: projection_size=0 is out"),
]  # fmt: skip


@pytest.mark.parametrize("name, said, message", WRONG)
def test_a_value_that_no_model_has_is_told_by_file_and_key(name, said, message):
    with pytest.raises(UserError) as caught:
        families()[name].method(said, "F.json")
    assert str(caught.value).startswith(f"F.json: {message}")


@pytest.mark.parametrize(
    "said, wanted",
    [
        ("8", "model_max_length is '8', it must be of type int"),
        (1, "model_max_length=1 is out of range; it must be at least 3"),
        (-1, "model_max_length=-1 is out of range"),
        (8, 8),
        (1e30, 20),  # what transformers writes for no limit
        (None, 20),
    ],
)
def test_texts_of_a_bert_are_as_long_as_its_files_say(said, wanted, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": said}))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 30}')
    length = families()["bert"].text_length
    beside = Beside(str(tmp_path), {"model_type": "bert"})
    if isinstance(wanted, int):
        assert length(beside, 20) == wanted
        assert length(beside, 40) == min(wanted + 10 * (wanted == 20), 30)
    else:
        with pytest.raises(UserError) as caught:
            length(beside, 20)
        assert str(caught.value).startswith(f"{tmp_path}/tokenizer_config.json: {wanted}")

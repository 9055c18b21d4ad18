"""`convert`: in, proven, and out again; everything that is refused is refused in one message, with
nothing written."""

import io
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from vlp_jax.api.model import load_model
from vlp_jax.cli import convert
from vlp_jax.core.errors import UserError
from vlp_jax.interop.position import resize_pos_embed


def last_json(capsys):
    return json.loads(capsys.readouterr().out.strip().split("\n")[-1])


def test_in_and_back_gives_the_same_file(tiny_weights, tmp_path, capsys):
    assert convert.main([str(tiny_weights), str(tmp_path / "ours"), "--arch=tiny", "--json"]) == 0
    report = last_json(capsys)
    assert (
        report["arch"] == "tiny"
        and report["to"] == "vlp_jax"
        and report["source"]["kind"] == "open_clip"
    )
    original = load_file(tiny_weights)
    assert report["parameters"] == sum(array.size for array in original.values())
    assert sorted(os.listdir(tmp_path / "ours")) == ["vlp_jax.json", "weights.safetensors"]
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=open_clip"]) == 0
    back = load_file(tmp_path / "back" / "open_clip_model.safetensors")
    assert set(back) == set(original)
    for name, array in original.items():
        np.testing.assert_array_equal(back[name], array)
    config = json.loads((tmp_path / "back" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["patch_size"] == 8
    assert config["preprocess_cfg"]["mean"][0] == pytest.approx(0.48145466)


def test_through_hugging_face_and_back_gives_the_same_embeddings(tiny_weights, tmp_path):
    ours, theirs, again = (str(tmp_path / name) for name in ("ours", "hf", "again"))
    convert.main([str(tiny_weights), ours, "--arch=tiny"])
    convert.main([ours, theirs, "--to=hf"])
    assert sorted(os.listdir(theirs)) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    convert.main([theirs, again])  # its config.json says every size
    assert load_model(again).config["arch"] == "tiny"
    first, second = load_model(ours), load_model(again)
    assert first.config["golden"] == second.config["golden"]
    assert {**first.preprocessing, "crop": "center_floor"} == second.preprocessing
    same = jax.tree.map(np.array_equal, first.params, second.params)
    assert all(jax.tree.leaves(same))


def test_a_folder_prepares_pictures_as_its_source(tiny_weights, tmp_path):
    """20 cut to 16 by Pillow's bilinear, colours under full transparency shown; scales of -1..1."""
    hf, ours = tmp_path / "hf", tmp_path / "ours"
    convert.main([str(tiny_weights), str(hf), "--arch=tiny", "--to=hf"])
    said = {"size": {"shortest_edge": 20}, "crop_size": 16, "resample": 2}
    said |= {"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1}
    (hf / "preprocessor_config.json").write_text(json.dumps(said))
    assert convert.main([str(hf), str(ours), "--arch=tiny"]) == 0
    model = load_model(str(ours))
    assert model.method.image_mean == model.method.image_std == (0.5,) * 3

    pixels = np.random.default_rng(0).integers(0, 256, (30, 47, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    small = Image.open(file).convert("RGB").resize((31, 20), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(model.decode(file.getvalue()), np.asarray(small)[2:18, 7:23])

    larger = [str(hf), str(tmp_path / "larger"), "--arch=tiny", "--image-size=24"]
    assert convert.main(larger) == 0  # the share stays: 30 cut to 24
    small = Image.open(file).convert("RGB").resize((47, 30), Image.Resampling.BILINEAR)
    decoded = load_model(larger[1]).decode(file.getvalue())
    np.testing.assert_array_equal(decoded, np.asarray(small)[3:27, 11:35])
    (hf / "preprocessor_config.json").write_text(json.dumps(said | {"crop_size": 20}))
    with pytest.raises(UserError, match="makes pictures of 20 pixels, the model takes 16"):
        convert.main([str(hf), str(tmp_path / "other"), "--arch=tiny"])
    assert not (tmp_path / "other").exists()


def test_folders_from_before_alpha_was_carried_drop_it(tiny_model):
    manifest = json.loads((tiny_model / "vlp_jax.json").read_text())
    assert manifest["preprocessing"]["alpha"] == "drop"
    for key in ("alpha", "fill", "share"):
        del manifest["preprocessing"][key]
    (tiny_model / "vlp_jax.json").write_text(json.dumps(manifest))
    assert load_model(str(tiny_model)).preprocessing["alpha"] == "drop"


def test_what_the_other_library_does_with_pictures_is_noted(tiny_model, tmp_path, capsys):
    manifest = json.loads((tiny_model / "vlp_jax.json").read_text())
    manifest["preprocessing"]["alpha"] = "white"
    (tiny_model / "vlp_jax.json").write_text(json.dumps(manifest))
    for to, words in (("hf", ("transparent", "odd rest")), ("open_clip", ("transparent",))):
        assert convert.main([str(tiny_model), str(tmp_path / to), f"--to={to}"]) == 0
        error = capsys.readouterr().err
        assert [word in error for word in ("transparent", "odd rest")] == [True, len(words) == 2]


def test_straight_from_one_library_to_the_other(tiny_weights, tmp_path):
    assert convert.main([str(tiny_weights), str(tmp_path / "hf"), "--arch=tiny", "--to=hf"]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (
        config["vision_config"]["num_attention_heads"] == 2
        and config["vision_config"]["hidden_act"] == "gelu"
    )
    single = tmp_path / "single.safetensors"
    assert convert.main([str(tmp_path / "hf"), str(single), "--arch=tiny", "--to=open_clip"]) == 0
    assert set(load_file(single)) == set(load_file(tiny_weights))


def test_wrong_architecture_lists_every_mismatch_and_writes_nothing(tiny_weights, tmp_path):
    with pytest.raises(UserError) as error:
        convert.main([str(tiny_weights), str(tmp_path / "out"), "--arch=tiny-24"])
    first, *lines = str(error.value).split("\n")
    assert "does not hold tiny-24" in first and first.endswith("; its shapes are those of tiny")
    assert lines == ["  wrong shape  visual.positional_embedding [5, 16], expected [10, 16]"]
    assert not (tmp_path / "out").exists()


def test_positions_are_resized_only_when_asked(tiny_weights, tmp_path):
    out = str(tmp_path / "out")
    assert convert.main([str(tiny_weights), out, "--arch=tiny", "--image-size=24"]) == 0
    model = load_model(out)
    assert model.image_size == 24 and model.params["image"]["pos_embed"].shape == (10, 16)
    np.testing.assert_array_equal(
        model.params["image"]["pos_embed"][0],
        load_file(tiny_weights)["visual.positional_embedding"][0],
    )


@pytest.mark.parametrize("to, antialias", [("open_clip", True), ("hf", False)])
def test_positions_are_resized_as_their_library_does(tiny_weights, tmp_path, to, antialias):
    """Enlarged, where the two ways differ: the cubic has another slope."""
    table = load_file(tiny_weights)["visual.positional_embedding"]
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    convert.main([str(tiny_weights), source, "--arch=tiny", f"--to={to}"])
    convert.main([source, out, "--image-size=24"])
    found = np.asarray(load_model(out).params["image"]["pos_embed"])
    np.testing.assert_array_equal(found, resize_pos_embed(table, 10, 1, antialias))
    assert np.abs(found - resize_pos_embed(table, 10, 1, not antialias)).max() > 1e-3


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["IN", "OUT", "--arch=tinny"], r"unknown architecture 'tinny'; did you mean 'tiny'\?"),
        (["IN", "OUT"], "--arch: missing; its shapes are those of tiny"),
        (
            ["IN", "OUT", "--arch=tiny", "--to=hff"],
            r"--to: unknown format 'hff'; did you mean 'hf'\?",
        ),
        (["IN", "OUT", "--arch=tiny", "--to=mae"], "--to=mae: method 'clip' cannot be exported so"),
        (["NONE", "OUT", "--arch=tiny"], "no such file or folder"),
        (["IN", "OUT", "--arch=tiny", "--image-size=25"], "--image-size: 25 is no multiple of 8"),
        (["IN", "OUT", "--arch=RN50", "--image-size=256"], "--image-size: only a ViT"),
        (["IN", "FULL", "--arch=tiny"], "is not a converted checkpoint"),
        (["IN", "FULL", "--arch=tiny", "--to=hf"], "exists; nothing was written"),
        (["IN", "OUT.pt", "--arch=tiny", "--to=open_clip"], "pickled files are not written"),
        (
            ["IN", "OUT", "--arch=tiny", "--tokenizer=spm:none.model"],
            r"--tokenizer: none\.model: no such file",
        ),
    ],
)
def test_mistakes(tiny_weights, tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    before = sorted(os.listdir(tmp_path))
    places = {
        "IN": tiny_weights,
        "OUT": tmp_path / "out",
        "OUT.pt": tmp_path / "out.pt",
        "FULL": tmp_path / "full",
    }
    with pytest.raises(UserError, match=message):
        convert.main([str(places.get(argument, argument)) for argument in arguments])
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("value, what", [(np.nan, "is not finite"), (0, "is zero")])
def test_weights_that_embed_nothing_are_refused(tiny_weights, tmp_path, value, what):
    weights = load_file(tiny_weights)
    weights["visual.proj"][:] = value
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=f"image embedding that {what}"):
        convert.main([str(tmp_path / "nan.safetensors"), str(tmp_path / "out"), "--arch=tiny"])
    assert not (tmp_path / "out").exists()


def test_converted_folders_prove_themselves(tiny_model, tmp_path):
    out = tiny_model
    manifest = json.loads((out / "vlp_jax.json").read_text())
    manifest["method"]["image"]["activation"] = (
        "quick_gelu"  # as if the model's numerics had changed
    )
    (out / "vlp_jax.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=r"golden image embedding differs by 0\.\d+ \(allowed 0\.0001\)"
    ):
        load_model(str(out))
    with pytest.raises(UserError, match="is converted already"):
        convert.main([str(out), str(tmp_path / "again")])
    with pytest.raises(UserError, match="holds tiny, not RN50"):
        convert.main([str(out), str(tmp_path / "again"), "--to=hf", "--arch=RN50"])


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(UserError, match="neither a converted checkpoint"):
        load_model(str(tmp_path))

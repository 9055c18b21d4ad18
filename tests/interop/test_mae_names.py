"""Masked autoencoders in and out: names, fixed positions, an encoder alone, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlp_jax.api.model import load_model
from vlp_jax.api.released import read_released
from vlp_jax.api.switches import described
from vlp_jax.api.weights import position_tables
from vlp_jax.cli import convert
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten
from vlp_jax.interop.family import families
from vlp_jax.interop.mae import check_fits
from vlp_jax.interop.rules import to_theirs
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.mae import mae_tower

HF_MAE, OFFICIAL_MAE = (families()[name] for name in ("hf_mae", "mae"))
IMAGE = mae_tower(32, 8, 2, 64, 32)
DECODER = dict(num_layers=1, width=32, num_heads=16)


@pytest.fixture(scope="module")
def tree():
    """(method, flat parameters) of a tiny masked autoencoder, all of them random."""
    method = make_method({"name": "mae", "image": IMAGE, "decoder": DECODER})
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(method.init, jax.random.key(0))[0]
    return method, {
        path: rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        for path, leaf in flatten(shapes).items()
    }


@pytest.fixture(autouse=True)
def named(monkeypatch):
    """A size called tiny."""
    own = {"tiny": {"image": dict(IMAGE), "decoder": dict(DECODER)}}
    monkeypatch.setattr("vlp_jax.models.archs.mae.ARCHS", own)


def official(method, arrays):
    """The state of facebookresearch/mae, put together by hand where it is fused."""
    state = to_theirs(HF_MAE.table(()), {**arrays, **position_tables(method)})
    fused = {}
    for name in list(state):
        if ".attention.attention.query." in name:
            parts = [state.pop(name.replace("query", part)) for part in ("query", "key", "value")]
            fused[name.replace("attention.attention.query", "attn.qkv")] = np.concatenate(parts)
    words = {
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.": "",
        "vit.encoder.layer": "blocks",
        "vit.layernorm": "norm",
        "decoder.decoder_layers": "decoder_blocks",
        "decoder.": "",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    renamed = {}
    for name, array in (state | fused).items():
        for theirs, ours in words.items():
            name = name.replace(theirs, ours)
        renamed[name] = array
    return renamed


def test_both_families_name_the_same_weights(tree):
    method, arrays = tree
    everything = {**arrays, **position_tables(method)}
    wanted, found = to_theirs(OFFICIAL_MAE.table(()), everything), official(method, arrays)
    assert wanted.keys() == found.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert wanted["pos_embed"].shape == (1, 17, 64) and wanted["cls_token"].shape == (1, 1, 64)
    assert wanted["decoder_pos_embed"].shape == (1, 17, 32)


def test_the_official_encoder_gives_features_alone(tree, tmp_path, capsys):
    method, arrays = tree
    state = official(method, arrays)
    encoder = {name: a for name, a in state.items() if "decoder" not in name}
    del encoder["mask_token"]
    save_file(encoder, tmp_path / "encoder.safetensors")
    source, out = str(tmp_path / "encoder.safetensors"), str(tmp_path / "ours")
    assert convert.main([source, out, "--arch=tiny"]) == 0
    assert "an encoder alone" in capsys.readouterr().err
    loaded = load_model(out)
    assert loaded.method.decoder is None and set(loaded.method.functions()) >= {"features"}
    assert "reconstruct" not in loaded.method.functions() and loaded.method.flops() > 0
    found = flatten(loaded.params)
    assert found.keys() == {path for path in arrays if path.startswith("image/")}
    for path, array in found.items():
        np.testing.assert_array_equal(array, arrays[path])
    with pytest.raises(UserError, match="an encoder alone"):
        convert.main([out, str(tmp_path / "hf"), "--to=hf"])


def test_the_whole_model_through_hugging_face_and_back(tree, tmp_path):
    method, arrays = tree
    save_file(official(method, arrays), tmp_path / "whole.safetensors")
    first, hf, second = (str(tmp_path / name) for name in ("first", "hf", "second"))
    assert convert.main([str(tmp_path / "whole.safetensors"), first, "--arch=tiny"]) == 0
    assert convert.main([first, hf, "--to=hf"]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["model_type"], config["layer_norm_eps"]) == ("vit_mae", 1e-6)
    written = load_file(tmp_path / "hf" / "model.safetensors")
    tables = position_tables(method)
    np.testing.assert_array_equal(
        written["vit.embeddings.position_embeddings"][0], tables["image/pos_embed"]
    )
    assert convert.main([hf, second]) == 0  # its config.json says the sizes
    one, two = load_model(first), load_model(second)
    assert one.config["golden"] == two.config["golden"]
    assert one.method.image_tower == two.method.image_tower
    for path, array in flatten(two.params).items():
        np.testing.assert_array_equal(array, arrays[path])
    with pytest.raises(UserError, match="--to=open_clip: method 'mae' cannot be exported so"):
        convert.main([first, str(tmp_path / "oc"), "--to=open_clip"])


@pytest.mark.parametrize("part", ["encoder", "whole"])
def test_official_files_are_written_as_they_are_read(tree, tmp_path, capsys, part):
    state = official(*tree)
    if part == "encoder":
        del state["mask_token"]
        state = {name: array for name, array in state.items() if "decoder" not in name}
    save_file(state, tmp_path / "in.safetensors")
    ours, out, folder = (str(tmp_path / name) for name in ("ours", "out.safetensors", "out"))
    assert convert.main([str(tmp_path / "in.safetensors"), ours, "--arch=tiny"]) == 0
    capsys.readouterr()
    for target in (out, folder):
        assert convert.main([ours, target, "--to=mae"]) == 0
    note = capsys.readouterr().err
    heads = "num_heads=2, decoder_num_heads=16" if part == "whole" else "num_heads=2"
    assert f"load it with {heads}, norms of eps=1e-06, activation gelu" in note
    for written in (load_file(out), load_file(f"{folder}/model.safetensors")):
        assert written.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(written[name], array, err_msg=name)
    assert convert.main([folder, str(tmp_path / "again"), "--arch=tiny"]) == 0
    one, two = load_model(ours), load_model(str(tmp_path / "again"))
    assert one.config["golden"] == two.config["golden"] and one.method == two.method


def test_names_of_newer_transformers_are_read(tree, tmp_path):
    method, arrays = tree
    state = to_theirs(HF_MAE.table(()), {**arrays, **position_tables(method)})
    old, new = "decoder.decoder_layers.", "decoder.decoder_encoder.layer."
    save_file({k.replace(old, new): a for k, a in state.items()}, tmp_path / "model.safetensors")
    assert convert.main([str(tmp_path), str(tmp_path / "ours"), "--arch=tiny"]) == 0
    assert load_model(str(tmp_path / "ours")).config["source"]["kind"] == "hf_mae"


def change(state, kind):
    if kind == "other decoder table":
        state["decoder_pos_embed"] = state["decoder_pos_embed"][:, ::-1].copy()
    elif kind == "a head":
        state["head.weight"] = np.zeros((10, 64), np.float32)
    elif kind == "a block less":
        state = {name: array for name, array in state.items() if "blocks.1." not in name}
    return state


@pytest.mark.parametrize(
    "kind, flags, message",
    [
        ("other decoder table", ["--arch=tiny"], "decoder/pos_embed is not the fixed sine-cosine"),
        ("a head", ["--arch=tiny"], "not known    head.weight"),
        ("a block less", ["--arch=tiny"], "missing      blocks.1.attn.qkv.weight"),
        ("", [], "--arch: missing; its shapes are those of tiny"),
        ("", ["--arch=tiny", "--image-size=64"], "--image-size: a masked autoencoder's positions"),
        ("", ["--arch=tyni"], "unknown architecture 'tyni'"),
    ],
)
def test_refusals(tree, tmp_path, kind, flags, message):
    save_file(change(official(*tree), kind), tmp_path / "in.safetensors")
    with pytest.raises(UserError, match=message):
        convert.main([str(tmp_path / "in.safetensors"), str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


def test_other_positions_of_the_encoder_are_kept_as_weights(tree, tmp_path, capsys):
    state = official(*tree)
    state["pos_embed"] = state["pos_embed"] + np.float32(0.5)
    save_file(state, tmp_path / "in.safetensors")
    assert convert.main([str(tmp_path / "in.safetensors"), str(tmp_path / "o"), "--arch=tiny"]) == 0
    assert "positions are not the fixed table" in capsys.readouterr().err
    loaded = load_model(str(tmp_path / "o"))
    np.testing.assert_array_equal(loaded.params["image"]["pos_embed"], state["pos_embed"][0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_holds_the_fixed_tables_too(tree, tmp_path, dtype):
    """Rounded tables are the fixed ones; another table is not, in half precision either."""
    import ml_dtypes

    half = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    state = {name: array.astype(half) for name, array in official(*tree).items()}
    save_file(state, tmp_path / "in.safetensors")
    arrays, manifest, notes, _ = read_released(str(tmp_path / "in.safetensors"), "tiny")
    assert manifest["method"]["image"]["pos_embed"] == "sincos" and notes == []
    assert not [path for path in arrays if path.endswith("pos_embed")]
    state["decoder_pos_embed"] = (official(*tree)["decoder_pos_embed"] + 0.02).astype(half)
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="decoder/pos_embed is not the fixed sine-cosine"):
        read_released(str(tmp_path / "bad.safetensors"), "tiny")


NO_PLACE = {
    "a tower without a class token": {"image": {"pool": "gap"}},
    "a norm before the blocks": {"image": {"pre_norm": True}},
    "a patch embedding without bias": {"image": {"conv_bias": False}},
    "mask tokens in the encoder": {"mask_token_in_encoder": True},
    "another norm_eps or activation": {"decoder": {"norm_eps": 1e-5}},
}


@pytest.mark.parametrize("message", NO_PLACE)
def test_what_neither_library_can_be_is_refused(message):
    fields = dict(NO_PLACE[message])
    image, decoder = IMAGE | fields.pop("image", {}), DECODER | fields.pop("decoder", {})
    method = make_method({"name": "mae", "image": image, "decoder": decoder, **fields})
    with pytest.raises(UserError, match=f"--to=hf: ViTMAEForPreTraining cannot be {message}"):
        HF_MAE.configs(described(method), {}, None)
    with pytest.raises(UserError, match=f"--to=mae cannot be {message}"):
        check_fits(described(method), "--to=mae")

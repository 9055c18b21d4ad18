"""Single files of Stable Diffusion: names, sizes that no config says, averages beside raw weights.

tests/golden/ldm_state.py makes the files; tests/peers holds the names against diffusers' own.
"""

import pathlib
import runpy

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from vlp_jax.api.convert import convert
from vlp_jax.core.errors import UserError
from vlp_jax.interop.detect import open_checkpoint
from vlp_jax.interop.family import families
from vlp_jax.interop.folder import read_folder
from vlp_jax.interop.rules import to_ours
from vlp_jax.interop.tensors import from_arrays
from vlp_jax.interop.wrapped import unwrap
from vlp_jax.methods.base import make_method

MAKER = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "golden" / "ldm_state.py"))
FAMILY = families()["stable_diffusion"]
VAE = "first_stage_model."
TIME = "model.diffusion_model.time_embed.0.weight"


def tensors(kind):
    return MAKER["tensors"](kind)


def read(kind):
    """(config, arrays) of a file that is not written."""
    from vlp_jax.api.weights import expected_shapes

    state = FAMILY.held(from_arrays(tensors(kind)), None)
    config = FAMILY.inferred(state)
    shapes = expected_shapes(make_method(config))
    return config, to_ours(FAMILY.table(state), state, shapes, kind)


def test_sd1_converts_and_proves_itself(tmp_path):
    state = tensors("sd1")
    save_file(state, tmp_path / "sd.safetensors")
    report = convert(str(tmp_path / "sd.safetensors"), str(tmp_path / "ours"))
    assert report["source"]["kind"] == "stable_diffusion"
    arrays, manifest = read_folder(str(tmp_path / "ours"))
    config = manifest["method"]
    assert config["unet"]["heads"] == [8, 8] and not config["unet"]["linear"]
    assert config["schedule"]["prediction"] == "eps" and config["image_size"] == 512
    assert config["text"]["activation"] == "quick_gelu"
    assert arrays["batch_stats/latent_scale/scale"] == np.float32(0.18215)
    up = state["first_stage_model.decoder.up.1.upsample.conv.weight"]
    np.testing.assert_array_equal(
        arrays["autoencoder/decoder/up0_sample/conv/kernel"], up.transpose(2, 3, 1, 0)
    )
    assert sum(a.size for a in arrays.values()) == sum(a.size for a in state.values()) + 1


def test_sd2_looks_at_what_its_last_block_sees():
    config, arrays = read("sd2")
    assert config["schedule"]["prediction"] == "v" and config["image_size"] == 768
    assert config["text"]["num_layers"] == 2 and config["text"]["activation"] == "gelu"
    assert config["text"]["embed_dim"] == 0
    assert config["unet"]["linear"] and config["unet"]["heads"] == (1, 1)
    assert arrays["text/blocks/norm1/scale"].shape[0] == 2


def test_xl_has_two_towers_and_numbers():
    config, arrays = read("sdxl")
    assert config["states"] == "penultimate" and config["null"] == "zeros"
    assert config["unet"]["depths"] == (0, 2) and config["unet"]["middle_depth"] == 2
    assert (config["unet"]["pooled_width"], config["unet"]["time_ids"]) == (64, 6)
    assert config["text_2"]["embed_dim"] == 64 and config["text_2"]["num_layers"] == 2
    assert arrays["batch_stats/latent_scale/scale"] == np.float32(0.13025)


@pytest.mark.parametrize("kind, pads", [("sd1", (56,)), ("sd2", (None,)), ("sdxl", (56, None))])
def test_texts_are_padded_as_their_towers_were_trained(kind, pads):
    places = FAMILY.tokenizers(from_arrays(tensors(kind)))
    found = [FAMILY.tokenizer_options(beside, "", 57, "") for beside in places.values()]
    assert [options.get("pad_id") for options in found] == list(pads)


def test_betas_of_a_file_are_its_schedule():
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    state = tensors("sd1") | {"betas": betas.astype(np.float32)}
    config = FAMILY.inferred(from_arrays(state))
    assert (config["schedule"]["start"], config["schedule"]["end"]) == (0.0015, 0.0195)
    with pytest.raises(UserError, match=r"betas: of no known schedule"):
        FAMILY.inferred(from_arrays(state | {"betas": betas.astype(np.float32) ** 2}))


def test_averages_are_left_out_or_taken():
    state = {TIME: np.float32([1]), "first_stage_model.a": np.float32([2])}
    copies = {"model_ema.diffusion_modeltime_embed0weight": np.float32([3])}
    copies["model_ema.decay"] = np.float32([4])
    both = from_arrays({f"state_dict.{name}": a for name, a in (state | copies).items()})
    raw, notes = unwrap(both)
    assert raw.keys() == state.keys() and raw[TIME].read() == 1
    assert "2 averaged weights (model_ema) are left out; --weights=ema" in notes[0]
    assert unwrap(both, "raw")[1] == []
    ema, notes = unwrap(both, "ema")
    assert ema.keys() == state.keys() and ema[TIME].read() == 3
    assert "are taken" in notes[0]
    with pytest.raises(UserError, match=r"--weights=ema: F holds no averaged weights"):
        unwrap(from_arrays(state), "ema", "F")


def test_what_a_file_lacks_is_one_line(tmp_path):
    state = tensors("sd1")
    for gone, message in (
        ("model.diffusion_model.out.2.weight", r"lacks model\.diffusion_model\.out\.2\.weight"),
        ("model.diffusion_model.out.2.bias", r"missing      model\.diffusion_model\.out\.2\.bias"),
    ):
        path = tmp_path / "a.safetensors"
        save_file({name: a for name, a in state.items() if name != gone}, path)
        with pytest.raises(UserError, match=message):
            convert(str(path), str(tmp_path / "ours"))
    assert open_checkpoint(str(path)).family is FAMILY


def test_an_autoencoder_alone(tmp_path):
    """As sd-vae-ft-mse's file, which no factor is in."""
    state = {k.removeprefix(VAE): a for k, a in tensors("sd1").items() if k.startswith(VAE)}
    save_file(state | {"loss.logvar": np.zeros((), "f4")}, tmp_path / "vae.safetensors")
    report = convert(str(tmp_path / "vae.safetensors"), str(tmp_path / "ours"))
    assert "the file holds no factor of its latents; 0.18215 is taken" in report["notes"]
    arrays, manifest = read_folder(str(tmp_path / "ours"))
    assert set(manifest["parts"]) == {"autoencoder", "latent_scale"}
    assert manifest["method"]["name"] == "autoencoder"
    for ours, theirs in (("down1_res0", "down.1.block.0"), ("mid_res1", "mid.block_2")):
        found = arrays[f"autoencoder/encoder/{ours}/conv2/kernel"]
        wanted = state[f"encoder.{theirs}.conv2.weight"]
        np.testing.assert_array_equal(found, wanted.transpose(2, 3, 1, 0))


def test_labels_are_refused():
    state = tensors("sd1") | {"model.diffusion_model.label_emb.weight": np.zeros((9, 128), "f4")}
    with pytest.raises(UserError, match=r"a U-Net with labels .* is not read"):
        FAMILY.inferred(from_arrays(state))


def test_published_sizes_are_found_by_their_shapes():
    """SD 1's, as its file has them."""
    from vlp_jax.models.archs.latent_diffusion import ARCHS

    method = make_method({"name": "latent_diffusion", **ARCHS["sd1"]})
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params["unet"]))
    assert count == 859_520_964

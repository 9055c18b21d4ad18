"""Networks of diffusers alone, in their own folders: converted, run and written back."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
diffusers = pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import tiny_pipelines as tiny  # noqa: E402
import torch  # noqa: E402
from test_autoencoder import channels_first, channels_last  # noqa: E402
from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: E402

from vlp_jax.__main__ import main  # noqa: E402
from vlp_jax.api.forward import forward  # noqa: E402
from vlp_jax.api.model import load_model  # noqa: E402

RNG = np.random.default_rng(0)
LATENT = RNG.normal(size=(2, 4, 8, 4)).astype(np.float32)
TOLD = RNG.normal(size=(2, 5, 16)).astype(np.float32)
TIME = np.float32([7, 900])


def both_ways(model, folder, to="diffusers"):
    """Our model; what we write is loaded by theirs, tensor for tensor."""
    model.save_pretrained(folder / "theirs")
    assert main(["convert", str(folder / "theirs"), str(folder / "ours")]) == 0
    assert main(["convert", str(folder / "ours"), str(folder / "back"), f"--to={to}"]) == 0
    again = type(model).from_pretrained(folder / "back").state_dict()
    wanted = model.state_dict()
    assert again.keys() == wanted.keys()
    assert all(torch.equal(again[key], wanted[key]) for key in wanted)
    return load_model(str(folder / "ours"))


def test_autoencoders_of_any_size_of_picture(tmp_path):
    torch.manual_seed(0)
    sides = dict(down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4)
    sides |= dict(up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16))
    codes = diffusers.VQModel(**sides, latent_channels=4, num_vq_embeddings=32)
    pictures = RNG.integers(0, 256, (2, 8, 16, 3), np.uint8)
    pixels = channels_first(pictures.astype(np.float32) / 127.5 - 1)
    for name, theirs in (("kl", tiny.vae()), ("vq", tiny.randomise(codes))):
        model = both_ways(theirs, tmp_path / name)
        with torch.no_grad():
            found = theirs.encode(pixels)
            mean = found.latent_dist.mean if name == "kl" else found.latents
            decoded = channels_last(theirs.decode(channels_first(LATENT)).sample)
        own = forward(model, "encode_latents", {"image": pictures})["mean"]
        np.testing.assert_allclose(own, channels_last(mean), atol=1e-4, err_msg=f"{name} mean")
        own = forward(model, "decode_latents", {"latent": LATENT})["out"]
        np.testing.assert_allclose(own, decoded, atol=1e-3, err_msg=f"{name} decode")
        scale = model.extra["batch_stats"]["latent_scale"]["scale"]
        assert float(scale) == np.float32(theirs.config.scaling_factor)


def test_a_unet_and_a_controlnet(tmp_path):
    torch.manual_seed(0)
    unet, control = tiny.unet(), tiny.controlnet()
    given = {"latent": LATENT, "time": TIME, "context": TOLD}
    seen = channels_first(LATENT), torch.from_numpy(TIME), torch.from_numpy(TOLD)
    hint = RNG.integers(0, 256, (2, 8, 16, 3), np.uint8)
    with torch.no_grad():
        wanted = channels_last(unet(*seen).sample)
        pixels = channels_first(hint.astype(np.float32) / 255)
        skips, middle = control(*seen, controlnet_cond=pixels, return_dict=False)
    found = forward(both_ways(unet, tmp_path / "unet"), "denoise", given)["out"]
    np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg="U-Net")
    model = both_ways(control, tmp_path / "control")
    found = forward(model, "residuals", given | {"control": hint})
    np.testing.assert_allclose(found["middle"], channels_last(middle), atol=1e-4)
    for n, skip in enumerate(skips):
        np.testing.assert_allclose(found[f"skips/{n}"], channels_last(skip), atol=1e-4)


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_text_encoders(kind, tmp_path):
    torch.manual_seed(0)
    theirs = tiny.text_encoder(kind=kind)
    model = both_ways(theirs, tmp_path, "hf")
    ids = RNG.integers(0, len(tiny.VOCABULARY), (3, tiny.LENGTH)).astype(np.int32)
    ids[:, -1] = len(tiny.VOCABULARY) - 1
    with torch.no_grad():
        out = theirs(torch.from_numpy(ids).long())
    found = forward(model, "tokens", {"text": ids})["out"]
    np.testing.assert_allclose(found, out.last_hidden_state, atol=1e-4, err_msg="text states")
    if kind is CLIPTextModelWithProjection:
        rows = torch.nn.functional.normalize(out.text_embeds, dim=-1)
        found = forward(model, "embed_text", {"text": ids})["out"]
        np.testing.assert_allclose(found, rows, atol=1e-4, err_msg="projected")

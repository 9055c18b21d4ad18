"""Live parity with whole pipelines of diffusers: folders converted, every function beside its
network, guided pictures of ten steps from the same noise, and folders written back.
"""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
diffusers = pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import tiny_pipelines as tiny  # noqa: E402
import torch  # noqa: E402
from test_autoencoder import channels_first, channels_last  # noqa: E402

from vlp_jax.__main__ import main  # noqa: E402
from vlp_jax.api.forward import forward  # noqa: E402
from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.core import rng as rngs  # noqa: E402
from vlp_jax.core.inputs import Inputs  # noqa: E402
from vlp_jax.data.text import load_tokenizer  # noqa: E402
from vlp_jax.diffusion import denoise  # noqa: E402

SD, XL = diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline
I2I, INPAINT = (
    diffusers.StableDiffusionImg2ImgPipeline,
    diffusers.StableDiffusionInpaintPipeline,
)
CONTROL = diffusers.StableDiffusionControlNetPipeline
SCHEDULERS = {"ddim": tiny.DDIM, "pndm": tiny.PNDM}
STEPS, GUIDANCE = 10, 5.0
PROMPTS, NEGATIVE = ["a cat", "cat b"], "b a"
PIXELS = tiny.SIDE * tiny.FACTOR
RNG = np.random.default_rng(0)
START = RNG.normal(size=(2, tiny.SIDE, tiny.SIDE, 4)).astype(np.float32)
IMAGE = RNG.integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)
HINT = RNG.integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)
MASK = np.zeros((2, PIXELS, PIXELS, 3), np.uint8)
MASK[:, 4:12, 2:9] = 255


def converted(pipe, folder):
    """Our model of a pipeline that was saved."""
    pipe.save_pretrained(folder / "theirs")
    assert main(["convert", str(folder / "theirs"), str(folder / "ours")]) == 0
    return load_model(str(folder / "ours"))


def tokenizers(pipe):
    found = {"text": pipe.tokenizer}
    return found | ({"text_2": pipe.tokenizer_2} if hasattr(pipe, "tokenizer_2") else {})


def ids(pipe, texts, name="text"):
    """{field: int32[B, T]} by their tokenizers."""
    how = dict(padding="max_length", max_length=tiny.LENGTH, truncation=True)
    return {
        field.replace("text", name): np.int32(words(texts, **how).input_ids)
        for field, words in tokenizers(pipe).items()
    }


def drawn(model, pipe, sampler="ddim", how=None, **arrays):
    """Our pictures in [0, 1], guided, from the same noise."""
    given = ids(pipe, PROMPTS) | ids(pipe, [NEGATIVE] * 2, "negative") | {"start": START} | arrays
    options = dict(sampler=sampler, steps=STEPS, guidance=GUIDANCE) | (how or {})
    return (forward(model, "generate_image", given, options)["image"] + 1) / 2


def asked(pipe, **given):
    """Theirs."""
    how = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np")
    negative = [NEGATIVE] * 2
    return pipe(PROMPTS, negative_prompt=negative, **how, **given).images


def queued(monkeypatch, *modules, noise):
    """Their draws, in order, in place of random ones."""
    rest = list(noise)
    for module in modules:
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: rest.pop(0))
    return rest


def posterior_noise():
    """What our rows draw of the autoencoder's posterior, as theirs take it."""
    x = Inputs.of({"image": IMAGE}, index=np.arange(2, dtype=np.int32))
    shape = START.shape[1:]
    return channels_first(np.asarray(denoise.noise(rngs.fold(x.rng, "posterior"), shape)))


def same(found, wanted, name):
    assert wanted.std() > 0.02
    np.testing.assert_allclose(found, wanted, atol=1e-3, err_msg=name)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    pipe = tiny.pipeline(SD, folder)
    return pipe, converted(pipe, folder), folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl")
    pipe = tiny.xl(XL, folder)
    return pipe, converted(pipe, folder), folder


def test_functions_give_the_numbers_of_their_networks(sd):
    pipe, model, _ = sd
    with torch.no_grad():
        posterior = pipe.vae.encode(
            channels_first(IMAGE.astype(np.float32) / 127.5 - 1)
        ).latent_dist
        found = forward(model, "encode_latents", {"image": IMAGE})
        np.testing.assert_allclose(
            found["mean"], channels_last(posterior.mean), atol=1e-4, err_msg="VAE mean"
        )
        np.testing.assert_allclose(found["logvar"], channels_last(posterior.logvar), atol=1e-4)
        decoded = channels_last(pipe.vae.decode(channels_first(START)).sample)
        found = forward(model, "decode_latents", {"latent": START})["out"]
        np.testing.assert_allclose(found, decoded, atol=1e-3, err_msg="VAE decode")
        words = ids(pipe, PROMPTS)
        states = pipe.text_encoder(torch.from_numpy(words["text"]).long())
        found = forward(model, "text_states", words)
        np.testing.assert_allclose(
            found["states"], states.last_hidden_state, atol=1e-4, err_msg="text states"
        )
        time = np.float32([0, 981])
        told = states.last_hidden_state
        out = pipe.unet(channels_first(START), torch.from_numpy(time), told).sample
        arrays = {"latent": START, "time": time, "context": told.numpy()}
        found = forward(model, "denoise", arrays)["out"]
        np.testing.assert_allclose(found, channels_last(out), atol=1e-4, err_msg="U-Net")
    assert float(model.extra["batch_stats"]["latent_scale"]["scale"]) == np.float32(0.18215)
    own = model.text_arrays()(PROMPTS)
    np.testing.assert_array_equal(own["text"], words["text"])


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_text_to_image(sd, sampler):
    pipe, model, _ = sd
    pipe.scheduler = SCHEDULERS[sampler]
    wanted = asked(pipe, latents=channels_first(START))
    same(drawn(model, pipe, sampler), wanted, f"{sampler}: text to image")


def sibling(pipe, kind, **more):
    """Another pipeline of the same networks."""
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    found = kind(**parts, requires_safety_checker=False, **more)
    found.set_progress_bar_config(disable=True)
    return found


# diffusers cuts PNDM's list of times behind its doubled entry, see vlp_jax/diffusion/README.md.
@pytest.mark.parametrize("sampler, strength", [("ddim", 0.8), ("ddim", 1.0), ("pndm", 1.0)])
def test_image_to_image(sd, sampler, strength, monkeypatch):
    from diffusers.models.autoencoders import vae
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as i2i

    pipe, model, _ = sd
    pipe.scheduler = SCHEDULERS[sampler]
    noise = [posterior_noise(), channels_first(START)]
    rest = queued(monkeypatch, vae, i2i, noise=noise)
    pixels = channels_first(IMAGE.astype(np.float32) / 255)
    wanted = asked(sibling(pipe, I2I), image=pixels, strength=strength)
    assert not rest
    found = drawn(model, pipe, sampler, {"strength": strength}, image=IMAGE)
    same(found, wanted, f"{sampler}: image to image")


def painted(pipe, model, sampler, noise, monkeypatch, strength=1.0):
    """(ours, theirs) of a masked picture."""
    from diffusers.models.autoencoders import vae
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint

    rest = queued(monkeypatch, vae, inpaint, noise=noise)
    given = dict(image=channels_first(IMAGE.astype(np.float32) / 255), strength=strength)
    given["mask_image"] = channels_first(MASK[..., :1].astype(np.float32) / 255)
    wanted = asked(pipe, **given, height=PIXELS, width=PIXELS)
    assert not rest
    how = {"paste": False, "strength": strength}
    return drawn(model, pipe, sampler, how, image=IMAGE, mask=MASK), wanted


@pytest.mark.parametrize("sampler, strength", [("ddim", 1.0), ("ddim", 0.6), ("pndm", 1.0)])
def test_inpainting_by_blending(sd, sampler, strength, monkeypatch):
    pipe, model, _ = sd
    pipe.scheduler = SCHEDULERS[sampler]
    noise = [posterior_noise(), channels_first(START), posterior_noise()]
    both = painted(sibling(pipe, INPAINT), model, sampler, noise, monkeypatch, strength)
    same(*both, f"{sampler}: inpainting by blending")


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inpainting")
    pipe = tiny.pipeline(INPAINT, folder, unet=tiny.unet(in_channels=9))
    return pipe, converted(pipe, folder)


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_inpainting_by_nine_channels(nine, sampler, monkeypatch):
    """Of the picture without what is painted over, the autoencoder's mean."""
    pipe, model = nine
    pipe.scheduler = SCHEDULERS[sampler]
    noise = [channels_first(START), torch.zeros(2, 4, tiny.SIDE, tiny.SIDE)]
    both = painted(pipe, model, sampler, noise, monkeypatch)
    same(*both, f"{sampler}: inpainting by nine channels")
    latent = np.concatenate([START, START[..., :1] > 0, START[..., ::-1]], -1)
    told = RNG.normal(size=(2, tiny.LENGTH, 16)).astype(np.float32)
    seen = channels_first(latent), torch.tensor([3.0, 500.0]), torch.from_numpy(told)
    with torch.no_grad():
        wanted = channels_last(pipe.unet(*seen).sample)
    arrays = {"latent": latent, "time": np.float32([3, 500]), "context": told}
    found = forward(model, "denoise", arrays)["out"]
    np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg="U-Net of nine channels")


def test_sd2(tmp_path):
    """Linear maps, heads by level, texts of open_clip's activation padded by 0, and velocities."""
    unet = tiny.unet(attention_head_dim=(2, 4), use_linear_projection=True)
    text = tiny.text_encoder(layers=3, act="gelu")
    scheduler = diffusers.DDIMScheduler.from_config(
        tiny.DDIM.config, prediction_type="v_prediction"
    )
    words = tiny.tokenizer(tmp_path / "words", "!")
    parts = dict(unet=unet, text_encoder=text, tokenizer=words)
    pipe = tiny.pipeline(SD, tmp_path, scheduler, **parts)
    model = converted(pipe, tmp_path)
    same(drawn(model, pipe), asked(pipe, latents=channels_first(START)), "ddim: SD 2, v")
    np.testing.assert_array_equal(model.text_arrays()(PROMPTS)["text"], ids(pipe, PROMPTS)["text"])


def test_latent_diffusion_with_a_codebook(tmp_path, monkeypatch):
    """LDMPipeline, from noise alone; both ways."""
    from diffusers.pipelines.deprecated.latent_diffusion_uncond import (
        pipeline_latent_diffusion_uncond as uncond,
    )

    torch.manual_seed(2)
    sides = dict(down_block_types=("DownEncoderBlock2D",) * 2)
    sides |= dict(up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4)
    how = dict(block_out_channels=(8, 16), latent_channels=4, num_vq_embeddings=32)
    coder = tiny.randomise(diffusers.VQModel(**sides | how, scaling_factor=1.0))
    blocks = dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"))
    blocks |= dict(up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8)
    net = diffusers.UNet2DModel(**tiny.SIZES | blocks, in_channels=4, out_channels=4)
    pipe = diffusers.LDMPipeline(vqvae=coder, unet=tiny.randomise(net), scheduler=tiny.DDIM)
    pipe.set_progress_bar_config(disable=True)
    model = converted(pipe, tmp_path)
    queued(monkeypatch, uncond, noise=[channels_first(START)] * 2)
    told = dict(batch_size=2, num_inference_steps=STEPS, output_type="np")
    wanted = pipe(**told).images
    options = dict(sampler="ddim", steps=STEPS)
    found = forward(model, "generate_image", {"start": START}, options)["image"]
    same((found + 1) / 2, wanted, "ddim: latent diffusion, VQModel")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "b"), "--to=diffusers"]) == 0
    again = diffusers.LDMPipeline.from_pretrained(tmp_path / "b")
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(again(**told).images, wanted)


def test_xl(two):
    pipe, model, _ = two
    words = ids(pipe, PROMPTS)
    with torch.no_grad():
        wanted = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    found = forward(model, "text_states", words)
    np.testing.assert_allclose(found["states"], wanted[0], atol=1e-4, err_msg="XL: text states")
    np.testing.assert_allclose(found["pooled"], wanted[2], atol=1e-4, err_msg="XL: pooled")
    pictures = asked(pipe, latents=channels_first(START), height=PIXELS, width=PIXELS)
    same(drawn(model, pipe), pictures, "ddim: XL")
    how = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np")
    plain = pipe(PROMPTS, latents=channels_first(START), height=PIXELS, width=PIXELS, **how).images
    given = words | {"start": START}
    options = dict(sampler="ddim", steps=STEPS, guidance=GUIDANCE)
    found = forward(model, "generate_image", given, options)["image"]
    same((found + 1) / 2, plain, "ddim: XL, zeros for no negative prompt")
    specs = {"text": model.config["tokenizer"], **model.config["tokenizers"]}
    for name, spec in specs.items():
        own = load_tokenizer(f"{model.path}/{spec['name']}", tiny.LENGTH, **spec["options"])
        np.testing.assert_array_equal(own(PROMPTS), words[name])


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("count", [1, 2])
def test_controlnet(tmp_path, sampler, count):
    nets = [tiny.controlnet() for _ in range(count)]
    pipe = tiny.pipeline(
        CONTROL, tmp_path, SCHEDULERS[sampler], controlnet=nets if count > 1 else nets[0]
    )
    model = converted(pipe, tmp_path)
    hints = [HINT, IMAGE][:count]
    pixels = [channels_first(hint.astype(np.float32) / 255) for hint in hints]
    given = dict(image=pixels if count > 1 else pixels[0], latents=channels_first(START))
    wanted = asked(pipe, **given)
    names = ["control"] if count == 1 else ["control_0", "control_1"]
    own = dict(zip(names, hints, strict=True))
    found = drawn(model, pipe, sampler, **own)
    same(found, wanted, f"{sampler}: {count} ControlNets")
    assert np.abs(found - drawn(model, pipe, sampler)).max() > 1e-2


@pytest.mark.parametrize("which", ["sd", "two"])
def test_what_is_written_gives_the_same_pictures(which, request, tmp_path):
    pipe, _, folder = request.getfixturevalue(which)
    pipe.scheduler = tiny.DDIM
    back = str(tmp_path / "back")
    assert main(["convert", str(folder / "ours"), back, "--to=diffusers"]) == 0
    again = type(pipe).from_pretrained(back)
    again.set_progress_bar_config(disable=True)
    for name, net in pipe.components.items():
        if isinstance(net, torch.nn.Module):
            found, wanted = (one.state_dict() for one in (again.components[name], net))
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert dict(again.vae.config)["scaling_factor"] == pipe.vae.config.scaling_factor
    given = dict(latents=channels_first(START), height=PIXELS, width=PIXELS)
    np.testing.assert_array_equal(asked(again, **given), asked(pipe, **given))

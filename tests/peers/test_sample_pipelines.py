"""`sample` on converted folders of diffusers: the pictures of its pipelines from the same noise, by
texts through the folder's own tokenizers; a ControlNet and a LoRA that were released alone.
"""

import re

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
diffusers = pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import tiny_pipelines as tiny  # noqa: E402
from PIL import Image  # noqa: E402
from test_autoencoder import channels_first  # noqa: E402

from vlp_jax.__main__ import main  # noqa: E402
from vlp_jax.api.lora import write  # noqa: E402
from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.core.adapters import names  # noqa: E402
from vlp_jax.core.pytree import unflatten  # noqa: E402

SD, XL = diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline
CONTROL = diffusers.StableDiffusionControlNetPipeline
PROMPTS, NEGATIVE = ["a cat", "cat b"], "b a"
PIXELS = tiny.SIDE * tiny.FACTOR
RNG = np.random.default_rng(0)
START = RNG.normal(size=(2, tiny.SIDE, tiny.SIDE, 4)).astype(np.float32)
HINT = RNG.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8)


def converted(theirs, folder):
    """The folder of ours that a model of theirs becomes."""
    theirs.save_pretrained(folder / "theirs")
    assert main(["convert", str(folder / "theirs"), str(folder / "ours")]) == 0
    return str(folder / "ours")


def theirs(pipe, **given):
    """uint8[2, H, W, 3]"""
    how = dict(num_inference_steps=10, guidance_scale=5.0, latents=channels_first(START))
    given |= dict(negative_prompt=[NEGATIVE] * 2, output_type="np")
    return np.round(pipe(PROMPTS, **how, **given).images * 255)


def ours(model, **given):
    """int[2, H, W, 3]"""
    how = dict(steps=10, guidance=5.0, negative=NEGATIVE, start=START)
    return np.stack([np.asarray(one).astype(int) for one in model.sample(PROMPTS, **how, **given)])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    pipe = tiny.pipeline(SD, folder, tiny.PNDM)
    return pipe, converted(pipe, folder)


def test_texts_and_the_sampler_of_the_folder(base, tmp_path):
    pipe, folder = base
    model = load_model(folder)
    assert model.config["drawing"]["sampler"] == "pndm"
    wanted = theirs(pipe)
    assert wanted.std() > 5 and np.abs(ours(model) - wanted).max() <= 1
    assert np.abs(ours(model, sampler="ddim") - wanted).max() > 1


def test_both_texts_of_xl(tmp_path):
    pipe = tiny.xl(XL, tmp_path)
    model = load_model(converted(pipe, tmp_path))
    wanted = theirs(pipe, height=PIXELS, width=PIXELS)
    assert np.abs(ours(model) - wanted).max() <= 1
    other = theirs(pipe, height=PIXELS, width=PIXELS, prompt_2=["b", "a a"])
    assert np.abs(ours(model, text_2=["b", "a a"]) - other).max() <= 1
    assert np.abs(other - wanted).max() > 1


def test_a_control_network_and_an_adapter_that_came_alone(base, tmp_path):
    pipe, folder = base
    net = tiny.controlnet()
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    led = CONTROL(**parts, controlnet=net, requires_safety_checker=False)
    led.set_progress_bar_config(disable=True)
    control = converted(net, tmp_path)
    model = load_model(folder, parts={"control": control})
    pixels = channels_first(np.float32([HINT, HINT]) / 255)
    wanted = theirs(led, image=pixels)
    assert np.abs(ours(model, control=HINT) - wanted).max() <= 1
    assert np.abs(wanted - theirs(pipe)).max() > 1
    known = model.method.adapters(2)
    kernel, shapes = next((k, its) for k, its in known.items() if re.match("unet/.*cross", k))
    leaves = [RNG.normal(size=shape).astype(np.float32) for shape in shapes[:2]]
    leaves.append(np.ones(shapes.scale, np.float32))
    adapter = unflatten(dict(zip(names(kernel), leaves, strict=True)))
    file = str(tmp_path / "lora.safetensors")
    write(file, model.method, adapter)
    Image.fromarray(HINT).save(tmp_path / "h.png")
    out = tmp_path / "out"
    call = ["sample", f"--checkpoint={folder}", "--prompt=a cat", f"--with=control:{control}"]
    call += [f"--control={tmp_path / 'h.png'}", "--steps=3", f"--lora={file}:0.5"]
    assert main([*call, f"--out={out}"]) == 0
    found = np.asarray(Image.open(out / "00000_00000.png")).astype(int)
    drawn = load_model(folder, parts={"control": control}, lora={file: 0.5})
    (same,) = drawn.sample(["a cat"], control=HINT, steps=3)
    (plain,) = model.sample(["a cat"], control=HINT, steps=3)
    assert np.array_equal(found, same) and np.abs(found - np.asarray(plain)).max() > 1

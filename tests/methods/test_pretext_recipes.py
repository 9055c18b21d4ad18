"""The recipes of the pretext tasks: sizes by formula, small forms, titles that fit their panels."""

import pathlib

import jax
import numpy as np
import pytest
from pretext import jitted

from vlp_jax.api.config import load_config
from vlp_jax.core.pytree import size
from vlp_jax.methods.base import make_method

ROOT = pathlib.Path(__file__).parents[2] / "configs" / "pretext"
BLOCKS = 12 * (12 * 768**2 + 13 * 768)  # ViT-B (arXiv:2010.11929): 4 D^2 + 8 D^2, biases and norms


def vit_b16(tokens):
    return BLOCKS + 768 * (3 * 16**2 + 1) + tokens * 768 + 2 * 768


def decoder(width, widths, out):
    total = 0
    for features in widths:
        total += 16 * width * features + features + 2 * features
        width = features
    return total + 9 * width * out + out


HEADS = {
    "rotation": (196, 768 * 4 + 4),
    "context": (36, 1536 * 4096 + 4096 + 4096**2 + 4096 + 4096 * 8 + 8),
    "jigsaw": (16, 768 * 1024 + 1024 + 9216 * 4096 + 4096 + 4096 * 1000 + 1000),
    "colorization": (121, decoder(768, (256, 256), 313)),
    "denoising": (196, 768 * 768 + 768),
    "bow": (196, 768 * 2048 + 1),
}


def shapes(name, form=""):
    config = load_config(f"{ROOT}/{name}.py:{form}", {})
    method = make_method(config.method)
    return config, method, *jax.eval_shape(method.fresh, jax.random.key(0))


@pytest.mark.parametrize("name", HEADS)
def test_full_sizes_by_formula(name):
    params = shapes(name)[2]
    tokens, heads = HEADS[name]
    assert size(params["image"]) == vit_b16(tokens)
    assert size(params) == vit_b16(tokens) + heads


def test_the_context_encoder_by_formula():
    params = shapes("inpainting")[2]
    assert size(params["image"]) == vit_b16(64)
    assert size(params["channels"]) == 768 * 64**2 + 768
    assert size(params["decoder"]) == decoder(768, (512, 256, 128), 3)
    convs = [16 * a * b + b for a, b in ((3, 64), (64, 128), (128, 256), (256, 512))]
    assert size(params["critic"]) == sum(convs) + 2 * (128 + 256 + 512) + 4 * 4 * 512 + 1


@pytest.mark.parametrize("name", [*HEADS, "inpainting"])
def test_small_forms_and_their_titles(name):
    config, method, params, extra = shapes(name, "tiny")
    assert config.data.path.startswith("builtin:") and config.steps
    spec = method.batch_spec(2)
    assert spec["image"].shape[1] == config.image_size
    panels = jax.eval_shape(jitted(method.functions()["show"]), params, extra, spec)
    assert panels.shape[:2] == (2, len(config.evals.task.titles))
    assert panels.shape[-1] == 3 and np.diff(panels.shape[2:4]) == 0
    assert size(params) < 3e6


def test_every_recipe_takes_a_resnet():
    for name in ("rotation", "colorization", "inpainting", "bow"):
        params = shapes(name, "resnet50")[2]
        assert size(params["image"]) == 23_508_032  # torchvision's ResNet-50 without its classifier

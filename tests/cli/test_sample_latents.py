"""`Model.sample` of a tiny latent diffusion model: every use, by the same call."""

import jax
import numpy as np
import pytest

from vlp_jax.api.compose import composed
from vlp_jax.api.model import Model
from vlp_jax.core.errors import UserError
from vlp_jax.methods import latent_diffusion
from vlp_jax.methods.base import make_method

TEXT = dict(name="text", vocab_size=259, context_length=8, width=16, num_layers=1, num_heads=2)
UNET = dict(name="unet", in_channels=4, out_channels=4, widths=(8, 16), depths=(1, 0), groups=4)
UNET |= dict(middle_depth=0, heads=(2, 2), res_blocks=1)
SMALL = dict(name="autoencoder", widths=(4, 8), res_blocks=1, groups=2, middle_attention=False)
CONTROL = dict(hint_widths=(4, 8))
HOW = dict(steps=2, guidance=3.0)


def made(**changes):
    """A model of random weights, its zero-initialised layers too."""
    config = dict(name="latent_diffusion", image_size=16, text=TEXT, unet=UNET, autoencoder=SMALL)
    config |= dict(empty=(257, 258, 0), frozen_dtype="float32", unroll=True) | changes
    method = make_method(config)
    shapes, extra = jax.eval_shape(method.init, jax.random.key(0))
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: draw(size=leaf.shape, scale=0.2).astype("f"), shapes)
    extra = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), extra)
    spec = {"name": "bytes", "context_length": 8}
    return Model("tiny", method, params, extra, {}, spec, {"method": config})


@pytest.fixture(scope="module")
def model():
    return made()


def picture(height=16, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_every_use_by_one_call(model):
    """Texts, then a picture that is painted over, then a control network of another checkpoint."""
    plain, other = (model.sample([text], **HOW)[0] for text in ("a cat", "a dog"))
    assert plain.size == (16, 16) and plain.tobytes() != other.tobytes()
    mask = np.zeros((16, 16), bool)
    mask[:, 8:] = True
    painted = np.asarray(model.sample(["a cat"], image=picture(), mask=mask, **HOW)[0])
    np.testing.assert_array_equal(painted[:, :8], picture()[:, :8])
    assert np.abs(painted[:, 8:].astype(int) - np.asarray(plain)[:, 8:]).max() > 0
    trained = made(controls=1, control=CONTROL)
    both = composed(model, {"control": "trained"}, {"trained": trained}.get)
    assert both.params.keys() == model.params.keys() | {"control"}
    led, weak = (
        both.sample(["a cat"], control=picture(), control_scale=scale, **HOW)[0].tobytes()
        for scale in (1.0, 0.0)
    )
    assert weak == plain.tobytes() != led


def test_one_program_for_each_sampler_and_size_guided_or_not(model, monkeypatch):
    """Whatever the prompts, their lengths, what shall not be seen, seeds, strengths, guidance."""
    traces, inner = [], latent_diffusion.sample

    def counted(*args):
        traces.append(args[2].sampler)
        return inner(*args)

    monkeypatch.setattr(latent_diffusion, "sample", counted)
    how = dict(size=(8, 8), steps=2)
    made = {}
    for number in range(20):
        prompt, negative = f"{number:b}", ("", "a dog", None)[number % 3]
        asked = dict(seed=number, negative=negative, guidance=2.0 + number, **how)
        (made[number],) = model.sample([prompt], **asked)
    assert traces == ["ddim"]
    (empty,) = model.sample("10", seed=2, negative="", guidance=4.0, **how)
    assert empty.tobytes() == made[2].tobytes()  # without one: the empty text
    begun = lambda n, **more: model.sample("a", seed=n, image=picture(8, 8, n), **more, **how)  # noqa: E731
    for number in range(4):
        begun(number, strength=0.25 * number, negative=("b", None)[number % 2])
    assert traces == ["ddim"] * 2
    for words in (dict(guidance=1.0), dict(sampler="euler"), dict(sampler="euler", negative="b")):
        model.sample("a", **words, **how)
    assert traces == ["ddim"] * 3 + ["euler"]


def test_what_does_not_fit_is_told_before_anything_is_compiled(model):
    with pytest.raises(UserError, match=r"^size=18x16: sides must be multiples of 4"):
        model.sample(["a"], size=(18, 16), **HOW)
    with pytest.raises(UserError, match=r"^image: size=18x16: sides must be multiples of 4"):
        model.sample(["a"], image=picture(18, 16), strength=0.5, **HOW)
    wide = made(controls=1, control=CONTROL, unet={**UNET, "widths": (16, 16)})
    with pytest.raises(UserError, match=r"^parts.control=wide: does not fit: params/"):
        composed(model, {"control": "wide"}, {"wide": wide}.get)

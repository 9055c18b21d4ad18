"""What a judging network is shown: both float rules, the model's own before them, and files."""

import io

import numpy as np
import pytest
from PIL import Image

from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import decode_framed
from vlp_jax.data.framing import Framing
from vlp_jax.evals.kits.views import Drawn, View, clean_bicubic, tensorflow_bilinear

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def example(picture=PICTURE, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return {"image": file.getvalue()}


def test_tensorflows_rule_by_hand():
    row = np.repeat(np.uint8([[0, 100]])[..., None], 3, axis=2)
    assert tensorflow_bilinear(row, 4)[0, :, 0].tolist() == [0, 50, 100, 100]
    halved = tensorflow_bilinear(PICTURE[:, :20], 10)  # no antialiasing: every other pixel
    np.testing.assert_array_equal(halved, PICTURE[::2, :20:2])
    tall = tensorflow_bilinear(np.uint8(np.arange(4)[:, None, None] * np.ones((1, 1, 3)) * 10), 3)
    np.testing.assert_allclose(tall[:, 0, 0], [0, 40 / 3, 80 / 3], rtol=1e-6)


def test_the_clean_rule_antialiases_and_rounds_nothing():
    small = clean_bicubic(PICTURE, 7)
    rounded = np.asarray(Image.fromarray(PICTURE).resize((7, 7), Image.Resampling.BICUBIC))
    assert small.dtype == np.float32 and 0 < np.abs(small - rounded).max() <= 1
    step = clean_bicubic(np.uint8(255 * np.ones((9, 9, 3)) * (np.arange(9) > 4)[:, None]), 30)
    assert step.min() == 0 and step.max() == 255  # its overshoot is cut


@pytest.mark.parametrize("rule", ["tensorflow", "clean", "own"])
@pytest.mark.parametrize("first", [None, (12, Framing("squash"))])
def test_a_view_frames_first_and_then_resizes(rule, first):
    view = View(rule, 16, Framing("center"), first)
    row = view.read(example(), None, None)
    before = PICTURE if first is None else decode_framed(example()["image"], *first)[0]
    own = lambda x, size: decode_framed(example(x)["image"], size, Framing("center"))[0]  # noqa: E731
    resize = {"tensorflow": tensorflow_bilinear, "clean": clean_bicubic, "own": own}[rule]
    np.testing.assert_array_equal(row, resize(before, 16))
    batch = view.arrays([row, row])["image"]
    spec = view.field.spec("image", 2)["image"]
    assert (batch.shape, batch.dtype) == (spec.shape, spec.dtype)
    assert view.settings()["first"] == (first and (12, vars(first[1])))
    with pytest.raises(DamagedSample):
        view.read({}, None, None)


def test_drawn_pictures_are_read_as_they_are():
    view = View("tensorflow", 8, Framing())
    pictures = np.stack([PICTURE[:8, :8], PICTURE[8:16, 8:16]])
    source = Drawn(pictures)
    rows = [view.read(source[i], None, None) for i in range(len(source))]
    np.testing.assert_array_equal(rows, pictures)

"""Every way to frame a picture against the plain lines of Pillow that its source is made of."""

import io

import numpy as np
import pytest
from generated import encode, photo
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data import framing as module
from vlp_jax.data.decode import decode_framed, decode_image
from vlp_jax.data.framing import RESAMPLE, Framing

SIZES = [(1, 1), (1, 40), (40, 1), (3, 200), (200, 3), (17, 23), (31, 32), (32, 32), (33, 31),
         (64, 48), (75, 20), (20, 75), (61, 37), (449, 100), (37, 1000), (223, 224)]  # fmt: skip
SIZE = 32


def plain(data, framing, short=SIZE):
    """Resize, then crop or pad, as torchvision, transformers and open_clip write it."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    method = Image.Resampling[framing.resample.upper()]
    width, height = image.size
    if framing.crop == "squash":
        pixels, at = np.asarray(image.resize((short, short), method)), (short - SIZE) // 2
        return pixels[at : at + SIZE, at : at + SIZE]
    if framing.crop == "pad":
        ratio = max(width / SIZE, height / SIZE)
        edges = [max(1, round(edge / ratio)) for edge in image.size]
        canvas = np.full((SIZE, SIZE, 3), framing.fill, np.uint8)
        left, top = ((SIZE - edge) // 2 for edge in edges)
        canvas[top : top + edges[1], left : left + edges[0]] = np.asarray(
            image.resize(edges, method)
        )
        return canvas
    long = int(short * max(image.size) / min(image.size))
    edges = (short, long) if width <= height else (long, short)
    pixels = np.asarray(image.resize(edges, method))
    round_ = int if framing.crop == "center_floor" else round
    left, top = (round_((edge - SIZE) / 2) for edge in edges)
    return pixels[top : top + SIZE, left : left + SIZE]


FRAMINGS = {
    Framing("center"): SIZE,
    Framing("center_floor", resample="bilinear"): SIZE,
    Framing("center_floor", share=32 / 36): 36,
    Framing("center", share=0.5, resample="box"): 64,
    Framing("center_875"): 37,
    Framing("squash", resample="lanczos"): SIZE,
    Framing("squash", resample="bilinear", share=32 / 39): 39,
    Framing("pad"): SIZE,
    Framing("pad", fill=0, resample="bilinear"): SIZE,
}


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_odd_sizes_bit_for_bit(framing, form):
    for width, height in SIZES:
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        data = encode(noise, form)
        mine, shown = decode_framed(data, SIZE, framing)
        assert shown.aspect == width / height
        assert np.array_equal(mine, plain(data, framing, FRAMINGS[framing])), (width, height)


@pytest.mark.parametrize("name", RESAMPLE)
def test_filters_by_name(name):
    data = encode(photo(40, 57))
    mine = decode_image(data, SIZE, "squash", resample=name)
    assert np.array_equal(mine, plain(data, Framing("squash", resample=name)))
    others = [decode_image(data, SIZE, "squash", resample=other) for other in RESAMPLE]
    assert sum(np.array_equal(mine, other) for other in others) == 1


def test_a_picture_too_long_to_resize_whole_is_cut_first(monkeypatch):
    limit = SIZE * SIZE * 7
    for shape in ((50, 350), (350, 50)):
        data, image = encode(photo(*shape)), Image.fromarray(photo(*shape))
        monkeypatch.setattr(module, "MAX_RESIZED", limit)
        assert Framing().whole(image, image.size, SIZE) is not None
        whole = decode_image(data, SIZE).astype(int)
        monkeypatch.setattr(module, "MAX_RESIZED", limit - 1)
        assert Framing().whole(image, image.size, SIZE) is None
        assert np.abs(decode_image(data, SIZE) - whole).max() <= 2


def test_a_hair_of_any_length_stays_cheap():
    """1 x 20,000 pixels are 224 x 4,480,000 once resized; nothing of that size is made."""
    data = encode(np.full((20_000, 1, 3), 70, np.uint8))
    assert (decode_image(data, 224) == 70).all()


def test_pad_at_a_decoding_scale_keeps_the_aspect():
    data = encode(photo(300, 600), "JPEG", quality=95)
    whole, scaled = (decode_framed(data, SIZE, Framing("pad"), margin=m)[0] for m in (None, 1.0))
    assert (scaled[:8] == 255).all() and (scaled[24:] == 255).all()
    assert 0 < np.abs(scaled.astype(int) - whole).mean() < 2


def test_a_mapping_that_holds_more():
    said = {"crop": "pad", "fill": 7, "mean": (0, 0, 0), "image_size": 3, "alpha": "drop"}
    assert Framing.of(said) == Framing("pad", fill=7, alpha="drop")
    with pytest.raises(UserError, match=r"data.image.crop='centre' .*did you mean 'center'"):
        Framing.of({"crop": "centre"})


def test_a_random_place_of_a_squashed_picture():
    """ALIGN: SIZE of 40 x 40 pixels anywhere, of a picture twice as wide as high."""
    ramp = np.stack([np.tile(np.arange(80), (40, 1))] * 2 + [np.tile(np.arange(40)[:, None], 80)])
    data = encode(np.uint8(np.moveaxis(ramp, 0, -1)))
    framing, places = Framing("squash_random", share=0.8, resample="nearest"), set()
    for seed in range(200):
        pixels, shown = decode_framed(data, SIZE, framing, np.random.default_rng(seed))
        left, top = int(pixels[0, 0, 0]), int(pixels[0, 0, 2])
        assert left % 2 == 1 and shown.aspect == 2
        assert (left, top) == (shown.box.left + 1, shown.box.top)
        np.testing.assert_array_equal(pixels[0, :, 0], left + 2 * np.arange(SIZE))
        np.testing.assert_array_equal(pixels[:, 0, 2], top + np.arange(SIZE))
        places.add((left // 2, top))
    assert {x for x, _ in places} == {y for _, y in places} == set(range(9))
    assert len(places) > 70  # of 81: both ways are drawn alone
    middle = decode_framed(data, SIZE, Framing("squash", share=0.8, resample="nearest"))[0]
    assert (middle[0, 0, 0] // 2, middle[0, 0, 2]) == (4, 4)


def test_a_random_place_of_a_picture_whose_short_side_fits():
    """SDXL: 64 x 96 becomes 32 x 48, of which 32 x 32 are shown, anywhere along the long side."""
    ramp = np.stack([np.tile(np.arange(96), (64, 1))] * 3, -1)
    data, starts = encode(np.uint8(ramp)), set()
    framing = Framing("short_random", resample="nearest")
    for seed in range(60):
        pixels, shown = decode_framed(data, SIZE, framing, np.random.default_rng(seed))
        start = int(pixels[0, 0, 0]) // 2
        np.testing.assert_array_equal(pixels[3, :, 0], 2 * (start + np.arange(SIZE)) + 1)
        assert shown == (96, 64, (2 * start, 0, 2 * start + 64, 64))
        starts.add(start)
    assert starts <= set(range(17)) and len(starts) > 12

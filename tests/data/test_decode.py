"""R16 and the decode rules: odd pictures are converted as written down or dropped, never fatal."""

import io

import numpy as np
import pytest
from generated import encode, photo
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import DCT_EIGHTHS, check_colour, decode_image, shrink
from vlp_jax.data.framing import random_box
from vlp_jax.data.order import example_rng


def reference(data: bytes, size: int) -> np.ndarray:
    """The eval transform in three lines of Pillow."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    wide, high = (int(size * edge / min(image.size)) for edge in image.size)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def test_center_875_shows_the_middle_of_a_larger_picture():
    data = encode(photo(300, 451), "PNG")
    whole = decode_image(data, 64)  # shortest side 64
    assert np.array_equal(decode_image(data, 56, "center_875"), whole[4:60, 4:60])


def psnr(a, b) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


SHAPES = [(40, 40), (37, 61), (100, 33), (224, 224), (300, 451), (64, 30), (20, 75),
          (100, 449), (449, 100), (37, 1000), (1000, 37), (2, 300)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_center_crop_is_resize_and_crop_bit_for_bit(shape, form):
    data = encode(photo(*shape), form)
    for size in (32, 65):
        assert np.array_equal(decode_image(data, size), reference(data, size))


@pytest.mark.parametrize("shape", [(370, 500), (470, 613), (452, 452), (901, 950), (1001, 803)])
def test_dct_scaling_stays_close_to_the_plain_path(shape):
    data = encode(photo(*shape), "JPEG", quality=90)
    plain = reference(data, 224)
    scaled = decode_image(data, 224, "center", margin=1.0)
    assert not np.array_equal(plain, scaled)
    assert psnr(plain, scaled) >= 35


def test_every_dct_scale_is_registered_to_the_pixel():
    """A gradient has the same value everywhere: half a pixel of shift would be seen."""
    rows, columns = np.mgrid[0:403, 0:517]
    ramp = np.stack([rows * 0.6, columns * 0.45, rows * 0 + 128], -1).astype(np.uint8)
    data = encode(ramp, "JPEG", quality=98)
    for eighths in DCT_EIGHTHS:
        size = 403 * eighths // 8 - 2
        scaled = decode_image(data, size, "center", margin=1.0).astype(int)
        assert np.abs(scaled - decode_image(data, size).astype(int)).mean() < 0.8


def test_random_crop_shows_the_box_it_drew():
    picture = photo(300, 400)
    for form in ("PNG", "JPEG"):
        data = encode(picture, form)
        whole = Image.open(io.BytesIO(data))
        for i in range(4):
            box = random_box(400, 300, example_rng(0, 0, i), (0.3, 1.0))
            crop = whole.resize((64, 64), Image.Resampling.BICUBIC, box=box)
            mine = decode_image(data, 64, "random", example_rng(0, 0, i), (0.3, 1.0))
            assert psnr(np.asarray(crop), mine) >= 35


def test_random_boxes_keep_scale_ratio_and_bounds():
    for i in range(300):
        rng = np.random.default_rng(i)
        width, height = (int(v) for v in rng.integers(1, 500, 2))
        box = random_box(width, height, rng, (0.5, 0.7))
        assert 0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height
        if 0.9 < width / height < 1.1 and min(width, height) > 50:
            area = (box.right - box.left) * (box.bottom - box.top) / (width * height)
            assert 0.47 < area < 0.73


def test_squash_and_pad():
    data = encode(np.zeros((10, 30, 3), np.uint8))
    assert decode_image(data, 30, "squash").max() == 0
    padded = decode_image(data, 30, "pad")
    assert padded[:10].min() == 255 and padded[10:20].max() == 0 and padded[20:].min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, form):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24, 0] = 200  # one red quarter, one green
    upright[16:, 24:, 1] = 200
    image = Image.fromarray(upright)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF value -> the transpose that undoes it
    if orientation in turn:
        image = image.transpose(Image.Transpose(turn[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, form, exif=exif, **({"quality": 98} if form in ("JPEG", "WEBP") else {}))
    mine = decode_image(out.getvalue(), 32, "squash").astype(int)
    plain = decode_image(encode(upright), 32, "squash").astype(int)
    assert np.abs(mine - plain).mean() < 4


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_dct_scaling_keeps_rotated_pictures_registered(orientation):
    """Sizes that no scale divides: what libjpeg pads at the end becomes the start when turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(453, 461), "JPEG", quality=95, exif=exif)
    scaled = decode_image(data, 56, "center", margin=1.0)
    assert psnr(scaled, decode_image(data, 56)) >= 45


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_shrunk_pictures_are_upright_and_whole(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = photo(300, 601)
    small, full = shrink(encode(pixels, form, quality=95, exif=exif), 128)
    assert (full, small.size) == ((300, 601), (64, 128))  # stored lying, shown standing
    upright = Image.fromarray(np.rot90(pixels, -1)).resize((64, 128), Image.Resampling.BICUBIC)
    assert psnr(np.asarray(small), np.asarray(upright)) >= 37
    pixels = photo(20, 31)
    small, full = shrink(encode(pixels, "PNG"), 128)  # nothing is enlarged
    assert full == (31, 20) and np.array_equal(np.asarray(small), pixels)
    with pytest.raises(DamagedSample, match="empty_file"):
        shrink(b"", 128)


def test_postscript_never_reaches_ghostscript(monkeypatch):
    from PIL import EpsImagePlugin

    called = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: called.append(a))
    with pytest.raises(DamagedSample):
        decode_image(ODD["eps"][0], 16)
    assert not called


def save(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def odd_pictures() -> dict[str, tuple[bytes, tuple | str]]:
    """Name -> (bytes, expected colour of the picture or the reason it is dropped)."""
    grey16 = Image.fromarray(np.full((9, 9), 32896, np.uint16))
    clear = Image.new("RGBA", (9, 9), (255, 0, 0, 0))
    half = Image.new("RGBA", (9, 9), (255, 0, 0, 128))
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30] + [0] * 762)
    frames = [Image.new("RGB", (9, 9), c) for c in ("red", "blue")]
    animated = {"save_all": True, "append_images": frames[1:]}
    good = encode(photo(64, 64), "JPEG")
    png = encode(photo(64, 64))
    webp = save(Image.fromarray(photo(64, 64)), "WEBP")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    dropped = "unreadable_picture"
    return {
        "grey": (save(Image.new("L", (9, 9), 77), "PNG"), (77,) * 3),
        "grey jpeg": (save(Image.new("L", (9, 9), 77), "JPEG"), (77,) * 3),
        "one bit": (save(Image.new("1", (9, 9), 1), "PNG"), (255,) * 3),
        "16 bit": (save(grey16, "PNG"), (128,) * 3),
        "16 bit tiff": (save(grey16, "TIFF"), (128,) * 3),
        "float tiff": (save(Image.new("F", (9, 9), 40.0), "TIFF"), (40,) * 3),
        "transparent": (save(clear, "PNG"), (255,) * 3),
        "half transparent": (save(half, "PNG"), (255, 127, 127)),
        "half transparent webp": (save(half, "WEBP", lossless=True), (255, 127, 127)),
        "grey alpha": (save(Image.new("LA", (9, 9), (0, 0)), "PNG"), (255,) * 3),
        "palette": (save(palette, "PNG"), (10, 200, 30)),
        "palette transparency": (save(palette, "PNG", transparency=1), (255,) * 3),
        "cmyk": (
            save(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG", quality=98),
            (254, 0, 0),
        ),
        "cmyk tiff": (save(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        "animated gif": (save(frames[0], "GIF", **animated), (255, 0, 0)),
        "animated webp": (save(frames[0], "WEBP", lossless=True, **animated), (255, 0, 0)),
        "animated png": (save(frames[0], "PNG", **animated), (255, 0, 0)),
        "bmp": (save(frames[1], "BMP"), (0, 0, 255)),
        "1x1": (save(Image.new("RGB", (1, 1), "red"), "PNG"), (255, 0, 0)),
        "1x20000": (save(Image.new("RGB", (1, 20000), "red"), "PNG"), (255, 0, 0)),
        "20000x1 jpeg": (save(Image.new("L", (20000, 1), 50), "JPEG"), (50,) * 3),
        "empty": (b"", "empty_file"),
        "html": (b"<!DOCTYPE html><html><body>404</body></html>", dropped),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", dropped),
        "eps": (save(frames[0], "EPS"), dropped),
        "jpeg cut": (good[: len(good) // 2], dropped),
        "jpeg head": (good[:20], dropped),
        "jpeg magic": (b"\xff\xd8\xff", dropped),
        "png cut": (png[: len(png) // 2], dropped),
        "png flipped": (bytes(flipped), dropped),
        "webp cut": (webp[: len(webp) // 2], dropped),
        "gif header": (b"GIF89a" + bytes(7), dropped),
        "zeros": (bytes(5000), dropped),
    }


ODD = odd_pictures()


@pytest.mark.parametrize("crop", ["center", "random", "squash", "pad"])
@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_follow_the_written_rule(name, crop):
    data, expected = ODD[name]
    if isinstance(expected, str):
        with pytest.raises(DamagedSample, match=expected):
            decode_image(data, 16, crop, np.random.default_rng(0))
        return
    pixels = decode_image(data, 16, crop, np.random.default_rng(0))
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    centre = pixels[8, 8].astype(int)
    if crop != "pad" or "20000" not in name:  # a hair on white once it is padded
        assert np.abs(centre - expected).max() <= 2


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutations_give_a_picture_or_a_reason():
    """2,000 seeded mutations over all formats: flips, cuts, insertions, zeroed runs."""
    seeds = [encode(photo(24, 31), f) for f in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    seeds.append(encode(photo(24, 31), "JPEG", progressive=True))
    rng = np.random.default_rng(16)
    reasons, sound = {}, 0
    for i in range(2000):
        data = bytearray(seeds[i % len(seeds)])
        for _ in range(rng.integers(1, 4)):
            at, kind = int(rng.integers(len(data))), int(rng.integers(4))
            run = int(rng.integers(1, 30))
            if kind == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                data = data[: max(at, 1)]
            elif kind == 2:
                data[at:at] = rng.bytes(run)
            else:
                data[at : at + run] = bytes(run)
        try:
            pixels = decode_image(bytes(data), 16, "random", rng)
            assert pixels.shape == (16, 16, 3)
            sound += 1
        except DamagedSample as damage:
            reasons[damage.reason] = reasons.get(damage.reason, 0) + 1
    assert sound > 200 and reasons["unreadable_picture"] > 500
    assert set(reasons) <= {"unreadable_picture", "too_many_pixels", "empty_picture"}


def test_unknown_settings_are_refused():
    with pytest.raises(UserError, match=r"data.image.crop='centre' .*did you mean 'center'"):
        decode_image(ODD["grey"][0], 16, "centre")
    with pytest.raises(UserError, match=r"data.image.resample='cubic'"):
        decode_image(ODD["grey"][0], 16, resample="cubic")


def test_grey_pictures_alone_are_refused_where_colours_are_learnt():
    grey, red = (save(Image.new(mode, (8, 8), 70), "PNG") for mode in ("L", "RGB"))
    source = [{"image": grey}] * 40 + [{"image": b"torn"}]
    with pytest.raises(UserError, match=r"data\.path='here': all pictures are grey"):
        check_colour(source, "here")
    check_colour([*source[:39], {"image": red}], "here")
    check_colour([{"image": b"torn"}], "here")  # damage is told elsewhere

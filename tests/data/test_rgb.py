"""Depth and transparency: what every mode becomes, on white and with the alpha dropped."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.decode import decode_framed
from vlp_jax.data.framing import Framing


def shown(data, alpha="white", size=None):
    """The first row of a picture, resized by nothing."""
    size = size or Image.open(io.BytesIO(data)).width
    return decode_framed(data, size, Framing("squash", alpha=alpha))[0][0].tolist()


def save(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png(depth, colour, rows, transparent):
    """A PNG of 4 x 4 of any depth with a tRNS chunk, which Pillow does not write at every depth."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0))
    body = chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress((b"\0" + rows) * 4))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def of(mode, *colours, **options):
    image = Image.new(mode, (len(colours),) * 2)
    for x, colour in enumerate(colours):
        image.paste(colour, (x, 0, x + 1, len(colours)))
    return save(image, **options)


def palette(mode="P", **options):
    image = Image.new(mode, (2, 2), 1 if mode == "P" else (1, 0))
    image.putpalette([9, 9, 9, 10, 200, 30] + [0] * 762)
    return save(image, **options)


RED, GREEN, WHITE = [255, 0, 0], [10, 200, 30], [255, 255, 255]
CASES = {  # name: (file, on white, dropped)
    "rgba": (of("RGBA", (255, 0, 0, 0), (255, 0, 0, 128)), [WHITE, [255, 127, 127]], [RED, RED]),
    "rgba tiff": (of("RGBA", (255, 0, 0, 0), (9, 9, 9, 255), form="TIFF"),
                  [WHITE, [9] * 3], [RED, [9] * 3]),
    "rgba webp": (of("RGBA", (255, 0, 0, 128), (255, 0, 0, 255), form="WEBP", lossless=True),
                  [[255, 127, 127], RED], [RED, RED]),
    "grey and alpha": (of("LA", (40, 0), (40, 128)), [WHITE, [147] * 3], [[40] * 3] * 2),
    "palette and alpha": (palette("PA", form="TIFF"), [WHITE] * 2, [GREEN] * 2),
    "palette": (palette(transparency=1), [WHITE] * 2, [GREEN] * 2),
    "palette of alphas": (palette(transparency=b"\xff\x64"), [[159, 233, 167]] * 2, [GREEN] * 2),
    "gif": (palette(form="GIF", transparency=1), [WHITE] * 2, [GREEN] * 2),
    "one grey": (of("L", 40, 41, transparency=40), [WHITE, [41] * 3], [[40] * 3, [41] * 3]),
    "one colour": (of("RGB", (1, 2, 3), (1, 2, 4), transparency=(1, 2, 3)),
                   [WHITE, [1, 2, 4]], [[1, 2, 3], [1, 2, 4]]),
    "one of two": (of("1", 1, 0, transparency=0), [WHITE, WHITE], [WHITE, [0] * 3]),
    "one of 4 greys": (png(2, 0, bytes([0b00011011]), b"\0\1"),
                       [[0] * 3, WHITE, [170] * 3, WHITE], [[v] * 3 for v in (0, 85, 170, 255)]),
    "one of 16 greys": (png(4, 0, bytes([0x01, 0x23]), b"\0\2"),
                        [[0] * 3, [17] * 3, WHITE, [51] * 3], [[v] * 3 for v in (0, 17, 34, 51)]),
    "16-bit grey": (png(16, 0, struct.pack(">4H", 0, 1000, 32896, 1001), struct.pack(">H", 1000)),
                    [[0] * 3, WHITE, [128] * 3, [4] * 3], [[v] * 3 for v in (0, 4, 128, 4)]),
    "16-bit colour": (
        png(16, 2, struct.pack(">12H", *[1000, 2000, 3000] * 2, *[5000, 6000, 7000] * 2),
            struct.pack(">3H", 1000, 2000, 3000)),
        [WHITE, WHITE, [19, 23, 27], [19, 23, 27]], [[3, 7, 11]] * 2 + [[19, 23, 27]] * 2),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CASES)
def test_transparency(name):
    data, white, dropped = CASES[name]
    assert shown(data) == white
    assert shown(data, "drop") == dropped


@pytest.mark.parametrize("alpha", ["white", "drop"])
def test_depths(alpha):
    def grey(values, dtype):
        data = save(Image.fromarray(np.tile(np.asarray(values, dtype), (len(values), 1))), "TIFF")
        return [pixel[0] for pixel in shown(data, alpha)]

    assert grey([0, 0.25, 0.5, 1.0], np.float32) == [0, 64, 128, 255]  # a picture of 0..1
    assert grey([0, 0.5, 1.5, 300, -4], np.float32) == [0, 1, 2, 255, 0]  # one of 0..255
    assert grey([np.nan, np.inf, 0.5], np.float32) == [0, 255, 1]
    assert grey([0, 128, 257, 65535], np.uint16) == [0, 0, 1, 255]
    assert grey([-5, 257, 65535, 2**30], np.int32) == [0, 1, 255, 255]


def test_dropping_comes_before_resizing():
    """Colours under full transparency count as any other, as PIL's conversion leaves them."""
    data = of("RGBA", (200, 0, 0, 255), (0, 100, 0, 0))
    small = Image.open(io.BytesIO(data)).convert("RGB").resize((1, 1), Image.Resampling.BILINEAR)
    mine, _ = decode_framed(data, 1, Framing("squash", resample="bilinear", alpha="drop"))
    assert mine[0, 0].tolist() == list(small.getpixel((0, 0)))
    assert mine[0, 0].tolist() == [100, 50, 0]


def test_an_unknown_alpha_is_refused():
    with pytest.raises(UserError, match=r"data.image.alpha='wite' .*did you mean 'white'"):
        Framing(alpha="wite")

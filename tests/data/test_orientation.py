"""Metadata turns a picture by one rule, whichever decoder reads it, and never loses one."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vlp_jax.data.decode import decode_image
from vlp_jax.data.orientation import jpeg_orientation

# The formats that hold EXIF and XMP; CMYK is the JPEG that only Pillow decodes.
FORMS = ("JPEG", "CMYK", "PNG", "WEBP", "TIFF")
XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


def quarters():
    """48 x 32 with one red quarter: every turn and flip is seen."""
    pixels = np.full((32, 48, 3), 90, np.uint8)
    pixels[:16, :24] = 200, 40, 40
    return Image.fromarray(pixels)


def write(form, exif=None, xmp=None):
    image, out = quarters(), io.BytesIO()
    options = {"quality": 98} if form in ("JPEG", "CMYK", "WEBP") else {}
    if exif is not None:
        options["exif"] = exif
    if xmp is not None and form == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("latin-1"))
    elif xmp is not None and form == "TIFF":
        options["tiffinfo"] = {700: xmp}
    elif xmp is not None:
        options["xmp"] = xmp
    image = image.convert("CMYK") if form == "CMYK" else image
    image.save(out, "JPEG" if form == "CMYK" else form, **options)
    return out.getvalue()


def shown(data):
    return decode_image(data, 24, "squash").astype(int)


def exif_of(value, kind=3):
    """An EXIF block that holds an orientation of a TIFF type (3 short, 4 long, 2 text)."""
    field = {3: struct.pack("<HH", value, 0), 4: struct.pack("<I", value)}.get(kind, b"6\0\0\0")
    body = struct.pack("<HHHI", 1, 0x0112, kind, 2 if kind == 2 else 1) + field
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 0)


@pytest.mark.parametrize("form", FORMS)
def test_values_outside_1_to_8_mean_upright(form):
    upright = shown(write(form))
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        assert np.array_equal(shown(write(form, exif)), upright), value


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", [form for form in FORMS if form != "TIFF"])
def test_a_broken_exif_block_says_nothing(form):
    upright, sound = shown(write(form)), exif_of(6)
    turned = quarters().transpose(Image.Transpose.ROTATE_270).resize((24, 24))
    assert np.abs(shown(write(form, sound)) - np.asarray(turned, int)).mean() < 8
    rng = np.random.default_rng(0)
    blocks = [b"Exif\0\0", b"Exif\0\0MM", b"Exif\0\0" + rng.bytes(40), sound[:20], exif_of(0, 2)]
    blocks += [sound[:10] + b"\xff" * 4 + sound[14:]]  # its directory lies nowhere
    for block in blocks:
        assert np.array_equal(shown(write(form, block)), upright), block
    assert np.array_equal(shown(write(form, exif_of(6, 4))), shown(write(form, sound)))


@pytest.mark.parametrize("form", FORMS)
def test_an_orientation_in_xmp_alone_is_ignored(form):
    upright = shown(write(form))
    broken = b"<x:xmpmeta" + bytes(range(1, 256))
    for xmp in (XMP, XMP.replace(b'="6"', b">6<"), broken, b"\xff\xfe"):
        assert np.array_equal(shown(write(form, xmp=xmp)), upright), xmp
    if form == "PNG":  # its text may stand behind the pixels
        data = write(form, xmp=XMP)
        at, pixels = data.index(b"iTXt") - 4, data.index(b"IDAT") - 4
        late = data[:at] + data[pixels:-12] + data[at:pixels] + data[-12:]
        assert np.array_equal(shown(late), upright)
    if form != "TIFF":
        both = write(form, exif_of(6), xmp=XMP.replace(b"6", b"3"))
        assert np.array_equal(shown(both), shown(write(form, exif_of(6))))


@pytest.mark.parametrize("form", ["JPEG", "CMYK"])
def test_fill_bytes_do_not_hide_the_orientation(form):
    data = write(form, exif_of(6))
    plain, turned = shown(write(form)), shown(data)
    first = data.index(b"\xff\xe1")
    assert not np.array_equal(plain, turned)
    for before, at in ((b"\xff", first), (b"\xff" * 7, first), (b"\xff", 2)):
        assert np.array_equal(shown(data[:at] + before + data[at:]), turned)


def test_markers_before_the_exif_block():
    def segment(marker, body):
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body

    exif = segment(0xE1, exif_of(8))
    comment, xmp = (
        segment(0xFE, segment(0xE1, exif_of(3))),
        segment(0xE1, b"http://ns.adobe.com/xap"),
    )
    for head in (b"", comment, xmp, b"\xff\x01", comment + xmp, b"\xff\xff"):
        assert jpeg_orientation(b"\xff\xd8" + head + exif + b"\xff\xda") == 8, head
    for head in (b"\xff\xda", b"\xff\xe0\xff"):  # pixels, a cut segment
        assert jpeg_orientation(b"\xff\xd8" + head + exif) == 1, head
    block = exif_of(8)
    halves = segment(0xE1, block[:25]) + segment(0xE1, block[:6] + block[25:])
    assert jpeg_orientation(b"\xff\xd8" + halves) == 8
    assert jpeg_orientation(b"\xff\xd8\xff") == jpeg_orientation(b"") == 1

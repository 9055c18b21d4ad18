"""Which way up a picture is: the orientation that its EXIF block says.

EXIF alone counts, in every format and with every decoder: XMP's `tiff:Orientation` is ignored, as
browsers ignore it (Pillow takes it where EXIF is silent). A value outside 1..8 and a broken block
mean upright. The file exists so that metadata can turn a picture, and never lose one.
"""

import re

from PIL import ExifTags, Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # orientation -> the turn that undoes it
_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # the last 0xff: any number of them may stand before
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_SCAN, _APP1 = 0xDA, 0xE1


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG."""
    return data[:3] == b"\xff\xd8\xff"


def jpeg_orientation(data: bytes) -> int:
    """Orientation 1..8 of an encoded JPEG, from its marker segments alone."""
    block = _jpeg_exif(data)
    return _known(block) if block else 1


def picture_orientation(image: Image.Image) -> int:
    """Orientation 1..8 of a loaded picture of another format; a TIFF is upright once loaded."""
    forget_xmp(image)  # PNG may hold it behind the pixels
    try:
        return _valid(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a broken EXIF block says nothing about the picture
        return 1


def forget_xmp(image: Image.Image) -> None:
    """Keeps Pillow from reading an orientation in XMP; a TIFF reads it while it is loaded."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned as its orientation asks."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _jpeg_exif(data: bytes) -> bytes:
    """The EXIF block of a JPEG, its segments joined; b"" without one."""
    block, at = b"", 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _SCAN:
            break
        if marker in _BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == _APP1 and data[at + 2 : at + 8] == b"Exif\0\0":
            block += data[at + 8 : at + length]
        at += max(length, 2)
    return block


def _known(block: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(block)
        return _valid(exif.get(ExifTags.Base.Orientation))
    except Exception:
        return 1


def _valid(value: object) -> int:
    return int(value) if value in TURNS else 1

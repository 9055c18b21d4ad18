"""Any picture mode that Pillow reads to RGB.

The file exists so that depth and transparency follow one written rule: 16-bit values (and 32-bit
integers, cut to their range) are scaled by 1/257, where Pillow's own conversion cuts them to white;
floats are 0..1 where none is above 1, else 0..255; grey is repeated; CMYK and palettes are
converted. Transparency is laid on white, or dropped as by Pillow's conversion, which shows the
colours that lie under it.
"""

import numpy as np
from PIL import Image

ALPHAS = ("white", "drop")
_SEE_THROUGH = ("RGBA", "LA", "PA")
_STEPS = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # PNG's stored sample -> Pillow's 8 bits


def mend_transparency(image: Image.Image) -> None:
    """Before a PNG is loaded: the one transparent value of 2, 4 and 3 x 16 bits in Pillow's 8."""
    value, stored = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if value is not None and image.format == "PNG" and stored in _STEPS:
        step = _STEPS[stored]
        several = isinstance(value, tuple)
        image.info["transparency"] = (
            tuple(int(v * step) for v in value) if several else int(value * step)
        )


def is_see_through(image: Image.Image) -> bool:
    """Whether it has an alpha channel, or a colour that is transparent."""
    return "transparency" in image.info or image.mode in _SEE_THROUGH


def has_clear_pixels(image: Image.Image) -> bool:
    """Whether a pixel of a loaded picture is transparent, be it in part; an alpha channel of which
    nothing is used (what browsers and paint programs save) makes none so."""
    if not is_see_through(image):
        return False
    grey = image.mode.startswith("I") or image.mode == "F"
    full = _eight_bits(image) if grey else image
    return full.convert("RGBA").getchannel("A").getextrema()[0] < 255


def to_rgb(image: Image.Image, alpha: str) -> Image.Image:
    """RGB from any mode; `alpha` is one of ALPHAS."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if alpha == "white" and is_see_through(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.info.pop("transparency", None)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """L of 16 and 32 bits and floats; LA where one value is transparent."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode == "F":
        scaled = values * 255 if values.max(initial=0) <= 1 else values
    else:
        scaled = values / 257
    grey = Image.fromarray((np.clip(scaled, 0, 255) + 0.5).astype(np.uint8))
    if "transparency" not in image.info:
        return grey
    shown = Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, shown))

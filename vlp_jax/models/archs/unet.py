"""The sizes of the U-Nets of latent diffusion (arXiv:2112.10752; CompVis/latent-diffusion
models/ldm), Stable Diffusion 1.x and 2.x, and SDXL (arXiv:2307.01952).

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest


def _unet(
    channels: tuple[int, int],
    width: int,
    multiples: tuple[int, ...],
    depths: tuple[int, ...],
    heads: int = 0,
    head_width: int = 0,
    **others: Any,
) -> dict[str, Any]:
    """channels: in and out; heads of every level, or the channels of one head."""
    widths = tuple(width * m for m in multiples)
    found = dict(name="unet", in_channels=channels[0], out_channels=channels[1], widths=widths)
    found |= dict(depths=depths, middle_depth=max(depths) or 1)
    found["heads"] = tuple(heads or w // head_width for w in widths)
    return found | others


def _plain(*sizes: Any, **others: Any) -> dict[str, Any]:
    """Without a context."""
    return _unet(*sizes, cross=False, **others)


_SD = (320, (1, 2, 4, 4), (1, 1, 1, 0))
_SD2 = dict(head_width=64, linear=True)
_CIN = (192, (1, 2, 3, 5), (0, 1, 1, 1))
# name -> (fields of the network, width of its context, 0 without one)
SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "sd1": (_unet((4, 4), *_SD, heads=8), 768),
    "sd1-inpainting": (_unet((9, 4), *_SD, heads=8), 768),
    "sd2": (_unet((4, 4), *_SD, **_SD2), 1024),
    "sd2-inpainting": (_unet((9, 4), *_SD, **_SD2), 1024),
    "sd2-depth": (_unet((5, 4), *_SD, **_SD2), 1024),
    "sd-x4-upscaler": (
        _unet(
            (7, 4), 256, (1, 2, 2, 4), (0, 1, 1, 1), heads=8, linear=True, classes=1000,
            only_cross=(True, True, True, False),
        ),
        1024,
    ),
    "sdxl": (
        _unet((4, 4), 320, (1, 2, 4), (0, 2, 10), **_SD2, pooled_width=1280, time_ids=6),
        2048,
    ),
    "sdxl-refiner": (
        _unet((4, 4), 384, (1, 2, 4, 4), (0, 4, 4, 0), **_SD2, pooled_width=1280, time_ids=5),
        1280,
    ),
    # CelebA-HQ, FFHQ and LSUN bedrooms
    "ldm-unconditional": (_plain((3, 3), 224, (1, 2, 3, 4), (0, 1, 1, 1), head_width=32), 0),
    "ldm-churches": (
        _plain(
            (4, 4), 192, (1, 2, 2, 4, 4), (1, 1, 1, 1, 0), heads=8, film=True, resample="res"
        ),
        0,
    ),
    "ldm-cin-vq-f8": (_unet((4, 4), 256, (1, 2, 4), (1, 1, 1), head_width=32), 512),
    "ldm-cin256-v2": (_unet((3, 3), *_CIN, heads=1), 512),
    "ldm-txt2img-1p4b": (_unet((4, 4), *_SD, heads=8), 1280),
    "ldm-text2img256": (_unet((3, 3), *_CIN, head_width=32), 640),
    "ldm-bsr-sr": (_plain((6, 3), 160, (1, 2, 2, 4), (0, 0, 0, 1), head_width=32), 0),
    "ldm-inpainting-big": (
        _plain((7, 3), 256, (1, 2, 3, 4), (0, 1, 1, 1), heads=8, resample="res"),
        0,
    ),
    # Its factors 32, 16 and 8 are beyond its three levels: attention in the middle alone.
    "ldm-semantic": (_plain((6, 3), 128, (1, 4, 8), (0, 0, 0), heads=8), 0),
    "ldm-layout": (_unet((3, 3), 128, (1, 2, 3, 4), (0, 3, 3, 3), head_width=32), 512),
}  # fmt: skip


def unet(name: str, **others: Any) -> dict[str, Any]:
    """The network of a published size, e.g. "sd1"; others: further fields.

    Raises:
      UserError: an unknown size.
    """
    return _known(name)[0] | others


def context_width(name: str) -> int:
    """Columns of the states that it looks at; 0 without a context. Raises UserError as `unet`."""
    return _known(name)[1]


def _known(name: str) -> tuple[dict[str, Any], int]:
    if name not in SIZES:
        raise UserError(f"unet size: unknown {name!r}{nearest(name, SIZES)}")
    return SIZES[name]


ARCHS: dict[str, dict[str, Any]] = {name: {"unet": unet(name)} for name in SIZES}

"""Published latent diffusion systems as wholes: Stable Diffusion 1.x, 2.x, XL and its refiner
(CompVis/stable-diffusion and Stability-AI/generative-models configs; the text towers are those of
arXiv:2103.00020 and of OpenCLIP's ViT-H-14 and ViT-bigG-14).

The file exists so that a recipe and a file of weights without a config name all parts at once.
"""

from typing import Any

from vlp_jax.models.archs.autoencoder import autoencoder
from vlp_jax.models.archs.unet import unet


def _text(width: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    """A text tower of CLIP."""
    sizes = dict(name="text", width=width, num_layers=layers, num_heads=heads)
    return sizes | others


CLIP_L = _text(768, 12, 12, activation="quick_gelu")
OPEN_CLIP_H = _text(1024, 23, 16)  # without its last block: SD 2 looks at what that sees
OPEN_CLIP_BIG_G = _text(1280, 32, 20, embed_dim=1280)
_SCHEDULE = {"name": "scaled_linear", "start": 0.00085, "end": 0.012, "offset": 1}


def _system(unet_name: str, side: int, prediction: str = "eps", **others: Any) -> dict[str, Any]:
    return {
        "image_size": side,
        "unet": unet(unet_name),
        "autoencoder": autoencoder("kl-f8"),
        "schedule": _SCHEDULE | {"prediction": prediction},
        **others,
    }


_SD1 = dict(text=CLIP_L, empty=(49406, 49407))
_SD2 = dict(text=OPEN_CLIP_H, empty=(49406, 49407, 0))
_XL = dict(states="penultimate", null="zeros", text_2=OPEN_CLIP_BIG_G, empty_2=(49406, 49407, 0))
ARCHS: dict[str, dict[str, Any]] = {
    "sd1": _system("sd1", 512, **_SD1),
    "sd1-inpainting": _system("sd1-inpainting", 512, joins="mask", **_SD1),
    "sd2-base": _system("sd2", 512, **_SD2),
    "sd2": _system("sd2", 768, "v", **_SD2),
    "sd2-inpainting": _system("sd2-inpainting", 512, joins="mask", **_SD2),
    "sd2-depth": _system("sd2-depth", 512, joins="depth", **_SD2),
    "sdxl": _system("sdxl", 1024, text=CLIP_L, **_XL),
    "sdxl-refiner": _system("sdxl-refiner", 1024, **_XL),
}

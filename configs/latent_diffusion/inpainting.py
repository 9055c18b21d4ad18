"""Stable Diffusion's inpainting models (runwayml/stable-diffusion, Stability-AI/stablediffusion):
the U-Net also sees a mask and what it leaves of the picture.

python -m vlp_jax train --config=configs/latent_diffusion/inpainting.py:sd1
    --config.data.path='DIR/*.tar' --config.init_from=SD --workdir=W

SD is a converted text-to-image model: the five new input channels start as zeros, so that at the
start they change nothing. Strokes and boxes after LaMa (arXiv:2109.07161), a quarter of the masks
hides all. The file exists as that recipe; argument: sd1 or sd2.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released


def get_config(model: str = "sd1") -> ConfigDict:
    """Args: sd1 or sd2."""
    own = released(f"{model or 'sd1'}-inpainting", joins="mask")
    c = recipe(512, **own, **BFLOAT16)
    pad_texts(c)
    c.optim.lr, c.steps = 5e-5, 200_000
    return c

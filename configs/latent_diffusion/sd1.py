"""Stable Diffusion 1.x (CompVis/stable-diffusion, its card): LAION at 512 pixels, batch 2,048.

python -m vlp_jax train --config=configs/latent_diffusion/sd1.py --config.data.path='DIR/*.tar'
    --config.init_from.autoencoder=SD:autoencoder --config.init_from.latent_scale=SD:latent_scale
    --config.init_from.text=SD:text --workdir=W

SD is a converted checkpoint; `--config.init_from.unet=SD:unet` goes on with its U-Net. The card:
1.1 is 237,000 steps at 256 and 194,000 at 512 pixels, 1.2 515,000, 1.3 195,000 and 1.4 225,000 more
with a tenth of the captions dropped. The file exists as that recipe; argument: pixels of a side.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released


def get_config(size: str = "512") -> ConfigDict:
    """Args: pixels."""
    c = recipe(int(size or 512), **released("sd1"), **BFLOAT16)
    pad_texts(c)
    c.steps = 237_000 if c.image_size == 256 else 225_000
    return c

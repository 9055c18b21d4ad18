"""SDXL's base model (arXiv:2307.01952, 2.2 to 2.5): two text encoders, told the size a picture had
and where it was cut, offset noise.

python -m vlp_jax train --config=configs/latent_diffusion/sdxl.py --config.data.path='DIR/*.tar'
    --config.init_from.autoencoder=XL:autoencoder --config.init_from.latent_scale=XL:latent_scale
    --config.init_from.text=XL:text --config.init_from.text_2=XL:text_2 --workdir=W

600,000 steps at 256 pixels, 200,000 at 512, then 1024; the paper's last stage takes pictures of
many shapes, here all are square. The file exists as that recipe; argument: pixels of a side.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released


def get_config(size: str = "1024") -> ConfigDict:
    """Args: pixels."""
    own = released("sdxl", noise_offset=0.05)
    c = recipe(int(size or 1024), **own, **BFLOAT16)
    pad_texts(c)
    c.data.image.crop = "short_random"
    c.steps = {256: 600_000, 512: 200_000}.get(c.image_size, 200_000)
    return c

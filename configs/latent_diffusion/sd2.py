"""Stable Diffusion 2 (Stability-AI/stablediffusion, its cards): eps at 512 pixels (`base`), or
velocities at 768 (`v`).

python -m vlp_jax train --config=configs/latent_diffusion/sd2.py:v --config.data.path='DIR/*.tar'
    --config.init_from.autoencoder=SD2:autoencoder --config.init_from.latent_scale=SD2:latent_scale
    --config.init_from.text=SD2:text --config.init_from.unet=SD2BASE:unet --workdir=W

base is 550,000 steps at 256 and 850,000 at 512 pixels; v goes on with 150,000 at 512 and 140,000 at
768. `--config.method.schedule.zero_snr=true` with v is arXiv:2305.08891. The file exists as that
recipe; argument: base or v.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released


def get_config(kind: str = "base") -> ConfigDict:
    """Args: base or v."""
    v = (kind or "base") == "v"
    own = released("sd2", schedule={"prediction": "v"} if v else {})
    c = recipe(768 if v else 512, **own, **BFLOAT16)
    pad_texts(c)
    c.steps = 140_000 if v else 850_000
    return c

"""Stable Diffusion 1.x, 2.x, its x4 upscaler and SDXL's base model, from LAION at batch 2,048 (the
models' cards; SDXL, arXiv:2307.01952, 2.2 to 2.5).

python -m vlp_jax train --config=configs/latent_diffusion/stable_diffusion.py:sd1,512
    --config.data.path='DIR/*.tar' --config.init_from.autoencoder=SD:autoencoder
    --config.init_from.latent_scale=SD:latent_scale --config.init_from.text=SD:text --workdir=W

SD is a converted checkpoint (of SDXL `--config.init_from.text_2=SD:text_2`, too);
`--config.init_from.unet=SD:unet` goes on with its U-Net, as each stage of STEPS does with the one
before. The file exists as those recipes; argument: sd1, sd2 (noise), sd2-v (velocities), sd-x4 or
sdxl, and pixels of a side. `--config.method.schedule.zero_snr=true` with sd2-v is arXiv:2305.08891.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.models.archs.autoencoder import autoencoder

# Steps of each stage, by pixels of a side; the last is where a model ends. SD 1: those of 1.1 and
# 1.4 (1.2 and 1.3 come between them); SDXL's last stage takes pictures of many shapes, here square.
STEPS = {
    "sd1": {256: 237_000, 512: 225_000},
    "sd2": {256: 550_000, 512: 850_000},
    "sd2-v": {512: 150_000, 768: 140_000},
    "sd-x4": {512: 1_250_000},  # crops of pictures of 2,048 pixels and more
    "sdxl": {256: 600_000, 512: 200_000, 1024: 200_000},
}
OWN = {
    "sd2-v": {"schedule": {"prediction": "v"}},
    "sd-x4": {
        "schedule": {"prediction": "v", "start": 1e-4, "end": 0.02},
        "joins": "low",
        "low_noise": 350,
        "autoencoder": autoencoder("kl-f4", latent_channels=4),
    },
    "sdxl": {"noise_offset": 0.05},
}


def get_config(words: str = "sd1") -> ConfigDict:
    """Args: model[,pixels]."""
    name, _, side = (words or "sd1").partition(",")
    if name not in STEPS:
        raise UserError(f"stable_diffusion.py: unknown {name!r}{nearest(name, STEPS)}")
    side = int(side or max(STEPS[name]))
    own = released(name.removesuffix("-v")) | OWN.get(name, {})
    c = recipe(side, **own, **BFLOAT16)
    pad_texts(c)
    c.steps = STEPS[name].get(side, max(STEPS[name].values()))
    if name == "sdxl":
        c.data.image.crop = "short_random"
    return c

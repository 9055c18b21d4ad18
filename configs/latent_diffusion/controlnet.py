"""ControlNet (arXiv:2302.05543): a copy of the first half of a frozen U-Net learns to follow
control pictures, a further file of every sample.

python -m vlp_jax train --config=configs/latent_diffusion/controlnet.py:SD,edges.png
    --config.data.path='DIR/*.tar' --workdir=W

SD is a converted checkpoint. Half of the prompts are dropped, so that pictures are told from the
control alone, too. The file exists as that recipe; argument: SD, the suffix of the control pictures
and, where it is not sd1, the size of models/archs/unet.py.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released, start_from
from vlp_jax.models.controlnet import ControlNet


def get_config(words: str = "") -> ConfigDict:
    """Args: SD,suffix[,size]."""
    folder, suffix, size = [*(words or "SD,control.png").split(","), "sd1"][:3]
    control = {"hint_widths": ControlNet.hint_widths}  # for an autoencoder that makes 1/8
    c = recipe(512, **released(size, controls=1, control=control, drop=0.5), **BFLOAT16)
    pad_texts(c)
    c.data.fields.control = {"member": suffix}
    start_from(c, folder)
    c.batch_size, c.steps = 256, 50_000
    c.optim.lr, c.optim.warmup_steps = 1e-5, 0
    c.ema_decay = 0.0
    return c

"""ALIGN's recipe (arXiv:2102.05918, align.md 4) on our towers: LAMB, linear decay, batch 16,384.

The file exists for the recipe alone; ALIGN's EfficientNet and BERT towers are not here yet, so the
image tower is a ViT (argument: any name of clip_archs.py).
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.archs.clip import clip_arch


def get_config(arch: str = "ViT-B-16") -> ConfigDict:
    """Args: architecture."""
    c = common.base()
    c.method = common.clip_method("clip", clip_arch(arch or "ViT-B-16"))
    c.image_size = c.method.image.image_size
    c.method.image.image_size = c.get_ref("image_size")
    c.method.dtype = "bfloat16"
    c.steps = 1_200_000
    c.batch_size = 16_384
    c.optim.name = "lamb"
    c.optim.lr = 1e-3
    c.optim.schedule = "linear"
    c.optim.warmup_steps = 10_000
    c.optim.weight_decay = 1e-5
    c.optim.b2 = 0.999
    c.data.workers = 16
    return c

"""The supervised baseline from scratch of MAE (arXiv:2111.06377 Table 11; mae.md 4.5).

The file exists as the number that pre-training has to beat; argument: ViT-B-16, ViT-L-16 or
ViT-H-14.
"""

from ml_collections import ConfigDict

from configs import common
from configs.classify.common import imagenet, recipe, strong
from vlp_jax.models.archs.mae import mae_arch


def get_config(size: str = "ViT-B-16") -> ConfigDict:
    """Args: size."""
    size = size or "ViT-B-16"
    c = imagenet(recipe(mae_arch(size)["image"], 1000))
    strong(c)
    c.method.image.drop_path = 0.1 if size == "ViT-B-16" else 0.2
    c.epochs = 300.0 if size == "ViT-B-16" else 200.0
    c.batch_size = 4096
    c.ema_decay = 0.9999
    common.scale_lr(c, 1e-4)
    c.optim.b2, c.optim.eps, c.optim.weight_decay = 0.95, 1e-8, 0.3
    c.optim.warmup_epochs = 20.0
    return c

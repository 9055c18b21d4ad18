"""MAE's trained linear probe on ImageNet-1k (arXiv:2111.06377 Table 10; mae.md 4.3).

python -m vlp_jax train --config=configs/classify/linear_probe.py:ViT-L-16
    --config.init_from='RUN:image/.*' --workdir=W

The file exists as the recipe of the frozen tower under LARS and a BatchNorm without parameters;
argument: ViT-B-16, ViT-L-16 or ViT-H-14.
"""

from ml_collections import ConfigDict

from configs import common
from configs.classify.common import imagenet, recipe
from vlp_jax.models.archs.mae import mae_arch


def get_config(size: str = "ViT-B-16") -> ConfigDict:
    """Args: size."""
    size = size or "ViT-B-16"
    c = imagenet(recipe(mae_arch(size)["image"], 1000, linear=True, head_norm="batch"))
    c.epochs = 90.0 if size == "ViT-B-16" else 50.0
    c.batch_size = 16_384
    c.optim.name = "lars"
    common.scale_lr(c, 0.1)
    c.optim.weight_decay = 0.0
    c.optim.warmup_epochs = 10.0
    return c

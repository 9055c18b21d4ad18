"""SimCLR's linear evaluation on ImageNet-1k (arXiv:2002.05709 section B.6; simclr.md 4.3).

python -m vlp_jax train --config=configs/classify/simclr_linear.py:RUN --workdir=W

RUN is a workdir; its tower is taken as it is, frozen. The file exists as the recipe of the head
under Nesterov momentum; without an argument the tower is a ViT-B/16.
"""

from ml_collections import ConfigDict

from configs import common
from configs.classify.common import imagenet, recipe, start_from
from vlp_jax.models.archs.mae import mae_arch


def get_config(workdir: str = "", layers: int = 0) -> ConfigDict:
    """Args: a finished run, and how many layers of its head stay below the classifier."""
    c = imagenet(recipe(mae_arch("ViT-B-16")["image"], 1000, linear=True))
    if workdir:
        start_from(c, workdir, layers)
    c.data.image.crop, c.data.image.eval_crop = "random", "center_875"
    c.epochs = 90.0
    c.batch_size = 4096
    c.optim.name, c.optim.momentum, c.optim.nesterov = "sgd", 0.9, True
    common.scale_lr(c, 0.1)
    c.optim.weight_decay = 0.0
    return c

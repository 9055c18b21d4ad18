"""Fine-tuning SimCLR with few labels on ImageNet-1k (arXiv:2002.05709 section B.5; simclr.md 4.4).

python -m vlp_jax train --config=configs/classify/simclr_finetune.py:RUN --workdir=W

RUN is a workdir. The labels are the fixed 1 % of TFDS, for 60 epochs; 10 %:
--config.data.path=tfds:imagenet2012_subset/10pct:train --config.epochs=30. The file exists as the
recipe of Nesterov momentum without warm-up or decay; without an argument the tower is a ViT-B/16.
"""

from ml_collections import ConfigDict

from configs import common
from configs.classify.common import imagenet, recipe, start_from
from vlp_jax.models.mae_archs import mae_arch


def get_config(workdir: str = "") -> ConfigDict:
    """Args: a finished run."""
    c = imagenet(recipe(mae_arch("ViT-B-16")["image"], 1000))
    if workdir:
        start_from(c, workdir)
    c.data.path = "tfds:imagenet2012_subset/1pct:train"
    c.data.image.crop, c.data.image.eval_crop = "random", "center_875"
    c.epochs = 60.0
    c.batch_size = 4096
    c.optim.name, c.optim.momentum, c.optim.nesterov = "sgd", 0.9, True
    common.scale_lr(c, 0.05)
    c.optim.weight_decay = 0.0
    return c

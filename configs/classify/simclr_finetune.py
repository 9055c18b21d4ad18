"""Fine-tuning SimCLR with few labels on ImageNet-1k (arXiv:2002.05709 section B.5; simclr.md 4.4).

python -m vlp_jax train --config=configs/classify/simclr_finetune.py:RUN --workdir=W

RUN is a workdir. The labels are the fixed 1 % of TFDS, for 60 epochs; 10 %:
--config.data.path=tfds:imagenet2012_subset/10pct:train --config.epochs=30. The file exists as what
fine-tuning changes in the linear evaluation; without an argument the tower is a ViT-B/16.
"""

from ml_collections import ConfigDict

from configs import common
from configs.classify import simclr_linear


def get_config(workdir: str = "") -> ConfigDict:
    """Args: a finished run."""
    c = simclr_linear.get_config(workdir)
    c.method.linear = False
    c.data.path = "tfds:imagenet2012_subset/1pct:train"
    c.epochs = 60.0
    common.scale_lr(c, 0.05)
    return c

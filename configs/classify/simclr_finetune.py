"""Fine-tuning SimCLR with few labels on ImageNet-1k (arXiv:2002.05709 section B.5; v2,
arXiv:2006.10029; simclr.md 4.4).

python -m vlp_jax train --config=configs/classify/simclr_finetune.py:RUN --workdir=W

Argument: RUN[,v2] with RUN a workdir. v2 starts from the first layer of the projection head and
takes LARS and batches of 1024. The labels are the fixed 1 % of TFDS, for 60 epochs; 10 %:
--config.data.path=tfds:imagenet2012_subset/10pct:train --config.epochs=30. The file exists as what
fine-tuning changes in the linear evaluation; without an argument the tower is a ViT-B/16.
"""

from ml_collections import ConfigDict

from configs import common
from configs.classify import simclr_linear
from configs.simclr.common import lars
from vlp_jax.core.errors import UserError


def get_config(args: str = "") -> ConfigDict:
    """Args: a finished run, and `v2` after a comma."""
    workdir, *words = args.split(",")
    if words not in ([], ["v2"]):
        raise UserError(f"--config=...:{args}: unknown {words[0]!r}; did you mean 'v2'?")
    c = simclr_linear.get_config(workdir, layers=len(words))
    c.method.linear = False
    c.data.path = "tfds:imagenet2012_subset/1pct:train"
    c.epochs = 60.0
    if words:
        c.batch_size, c.optim.nesterov = 1024, False
        lars(c, "finetune", weight_decay=0.0)
        c.optim.warmup_epochs = 0.0
    else:
        common.scale_lr(c, 0.05)
    return c

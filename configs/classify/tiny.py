"""Classification in minutes on two cores: the sub-categories of the embedded emoji at 32 pixels.

python -m vlp_jax train --config=configs/classify/tiny.py[:RUN] --workdir=W

Without RUN a small ViT from scratch; with it the tower of a finished run of any method, and its
weights. --config.method.linear=true freezes them. Fashion-MNIST, prepared in DIR, beside it:
--config.data.path='DIR/*-train-*.tar' --config.evals.test.path='DIR/*-test-*.tar'
--config.data.label=label --config.method.num_classes=10. The file exists as the laptop's form of
the other recipes.
"""

from ml_collections import ConfigDict

from configs.classify.common import recipe, start_from
from vlp_jax.models.archs.mae import mae_tower


def get_config(workdir: str = "") -> ConfigDict:
    """Args: a finished run, or empty."""
    c = recipe(mae_tower(32, 4, 4, 128, 32), 99)
    c.method.image.pool = "gap"
    c.data.path, c.data.label = "builtin:emoji/noto-train", "subcategory"
    c.evals.test.path = "builtin:emoji/noto-test"
    c.data.image.crop = c.data.image.eval_crop = "squash"
    if workdir:
        start_from(c, workdir)
    c.method.augment.crop_scale = (0.6, 1.0)
    c.method.label_smoothing = 0.1
    c.method.unroll = True
    c.steps = 300
    c.batch_size = 128
    c.optim.lr = 1e-3
    c.optim.b2, c.optim.eps, c.optim.weight_decay = 0.999, 1e-8, 0.05
    c.optim.warmup_steps = 50
    return c

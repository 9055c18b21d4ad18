"""Context prediction (arXiv:1505.05192): where one patch lies beside another.

python -m vlp_jax train --config=configs/pretext/context.py:tiny --workdir=runs/context

Patches of 96 pixels, gap 48, jitter 7 as published, with a ViT-B/16 trunk; `:tiny` runs on the
embedded emoji. The file exists as the recipe of methods/context.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, trunk


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, `resnet50`, or empty for ViT-B/16."""
    tiny = size == "tiny"
    if tiny:
        own = dict(gap=4, jitter=2, color_drop=0.5, downsample=0.0, hidden=(256,))
        c = recipe("context", trunk(size, 16, tiny_patch=4), True, picture_size=64, **own)
    else:
        own = dict(gap=48, jitter=7, color_drop=1.0, downsample=0.33, hidden=(4096, 4096))
        c = recipe("context", trunk(size, 96), False, picture_size=416, **own)
        c.epochs, c.batch_size = 100.0, 256
        c.optim.lr, c.optim.warmup_epochs = 1e-3, 5.0
    c.method.color_projection = False  # the published alternative to color_drop
    c.method.divide_rms = not tiny
    c.method.sum_pairs = False  # the published loss is the sum
    c.method.augment.flip = 0.0
    show_task(c, "accuracy", ("true place", "answer") * 3)
    return c

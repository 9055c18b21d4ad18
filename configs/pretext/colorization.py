"""Colorization (arXiv:1603.08511): 313 bins of the ab plane, rare colours weighted up.

python -m vlp_jax train --config=configs/pretext/colorization.py:tiny --workdir=runs/colorization

Pictures of 176 pixels as published, with a ViT-B/16 trunk; `:tiny` runs on the embedded emoji. The
file exists as the recipe of methods/colorization.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, trunk, whole_map


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, `resnet50`, or empty for ViT-B/16."""
    tiny = size == "tiny"
    sides = {"tiny": 64, "resnet50": 224}  # a multiple of 32 for the ResNet
    widths = {"tiny": (64,), "resnet50": (256, 256, 256)}
    image = trunk(size, sides.get(size, 176))
    own = dict(widths=widths.get(size, (256, 256)), bin_size=10, neighbours=5, sigma=5.0)
    own |= dict(rebalance=0.5, prior="", temperature=0.38)
    c = recipe("colorization", whole_map(image), tiny, **own)
    show_task(c, "auc,auc_rebalanced,psnr", ("input", "mean, T=1", "annealed, T=0.38", "target"))
    if not tiny:
        c.epochs, c.batch_size = 15.0, 40
        c.optim.lr, c.optim.b2, c.optim.warmup_epochs = 3e-5, 0.99, 0.5
        c.optim.weight_decay = 1e-3
    return c

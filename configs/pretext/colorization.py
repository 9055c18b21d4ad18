"""Colorization (arXiv:1603.08511): 313 bins of the ab plane, rare colours weighted up.

python -m vlp_jax train --config=configs/pretext/colorization.py:tiny --workdir=runs/colorization

Pictures of 176 pixels as published, with a ViT-B/16 trunk; `:tiny` runs on the embedded emoji. The
file exists as the recipe of methods/colorization.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, vit


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, or empty for the full size."""
    tiny = size == "tiny"
    image = vit(64, 8, 128, 4) if tiny else vit(176, 16, 768, 12)
    own = dict(widths=(64,) if tiny else (256, 256), bin_size=10, neighbours=5, sigma=5.0)
    own |= dict(rebalance=0.5, prior="", temperature=0.38)
    c = recipe("colorization", {**image, "pool": "none"}, tiny, **own)
    show_task(c, "auc", ("input", "mean, T=1", "annealed, T=0.38", "target"))
    if not tiny:
        c.epochs, c.batch_size = 15.0, 40
        c.optim.lr, c.optim.b2, c.optim.warmup_epochs = 3e-5, 0.99, 0.5
        c.optim.weight_decay = 1e-3
    return c

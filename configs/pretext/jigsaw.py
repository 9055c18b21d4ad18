"""Jigsaw puzzles (arXiv:1603.09246): nine tiles, 1,000 permutations.

python -m vlp_jax train --config=configs/pretext/jigsaw.py:tiny --workdir=runs/jigsaw

Pictures of 255 pixels in cells of 85, tiles of 64, as in the published code, with a ViT-B/16 trunk;
`:tiny` runs on the embedded emoji. The file exists as the recipe of methods/jigsaw.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, trunk


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, `resnet50`, or empty for ViT-B/16."""
    tiny = size == "tiny"
    if tiny:
        own = dict(grid=3, permutations=50, draws=4, tile_width=64, hidden=(256,))
        c = recipe("jigsaw", trunk(size, 16, tiny_patch=4), True, picture_size=60, **own)
    else:
        own = dict(grid=3, permutations=1000, draws=1, tile_width=1024, hidden=(4096,))
        c = recipe("jigsaw", trunk(size, 64), False, picture_size=255, **own)
        c.epochs, c.batch_size = 100.0, 256
        c.optim.lr, c.optim.warmup_epochs = 1e-3, 5.0
        c.method.augment.grey = 0.3
    c.method.dropout = 0.0 if tiny else 0.5  # after fc6 and fc7, as published
    show_task(c, "accuracy", ("asked", "put back", "true"))
    return c

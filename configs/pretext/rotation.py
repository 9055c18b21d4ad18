"""RotNet (arXiv:1803.07728): four turns of every picture, named by one linear layer.

python -m vlp_jax train --config=configs/pretext/rotation.py:tiny --workdir=runs/rotation

Published are the four turns, 192 pictures a batch and 50 epochs of AlexNet; the trunk here is a
ViT-B/16 under AdamW. `:tiny` runs on the embedded emoji. The file exists as the recipe of
methods/rotation.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, trunk


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, `resnet50`, or empty for ViT-B/16."""
    tiny = size == "tiny"
    c = recipe("rotation", trunk(size, 48 if tiny else 224), tiny)
    c.method.angles = (0, 90, 180, 270)
    turns = tuple(f"turned {angle}" for angle in c.method.angles)
    show_task(c, "accuracy", (*turns, *(["turned back"] * 4)))
    if not tiny:
        c.epochs, c.batch_size = 50.0, 192  # pictures; four turns each
        c.optim.lr, c.optim.warmup_epochs = 1e-3, 5.0
    return c

"""Bags of visual words (arXiv:2002.12247, online as arXiv:2012.11552).

python -m vlp_jax train --config=configs/pretext/bow.py:tiny --workdir=runs/bow

A RotNet teacher as published: `--config.init_from='runs/rotation:(batch_stats/)?image/.*'
--config.method.momentum=1.0` with a trunk of the same sizes. A ViT-B/16 trunk; `:tiny` runs on the
embedded emoji. The file exists as the recipe of methods/bow.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, trunk, whole_map


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, `resnet50`, or empty for ViT-B/16."""
    tiny = size == "tiny"
    image = trunk(size, 48 if tiny else 224)
    own = dict(words=64 if tiny else 2048, momentum=0.99, memory=0.95 if tiny else 0.98)
    own |= dict(cutmix=not tiny, scale=1.0)
    c = recipe("bow", whole_map(image), tiny, **own)
    a = c.method.augment
    a.crop_scale, a.brightness, a.contrast, a.saturation, a.grey = (0.2, 1.0), 0.4, 0.4, 0.4, 0.2
    truth = tuple(f"word {k}" for k in (1, 2, 3))
    answer = tuple(f"expected {k}" for k in (1, 2, 3))
    show_task(c, "loss", ("picture", *truth, *answer))
    if not tiny:
        c.epochs, c.batch_size = 200.0, 256
        c.optim.lr, c.optim.warmup_epochs = 5e-4, 10.0
    return c

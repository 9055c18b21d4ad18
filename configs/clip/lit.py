"""LiT (arXiv:2111.07991): a pretrained image tower, locked; only the text tower and the temperature
learn.

python -m vlp_jax train --config=configs/clip/lit.py --config.init_from.image=OUT:image \
    --config.data.path=DIR --workdir=W

OUT is a converted checkpoint or a workdir; where its tower has no projection of that size, add
`--config.fresh="('image/head/.*',)"`. The file exists as the recipe for locked towers.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.archs.clip import clip_arch


def get_config(arch: str = "ViT-B-32") -> ConfigDict:
    """Args: architecture; its image tower must be that of `init_from`."""
    c = common.base()
    c.method = common.clip_method("clip", clip_arch(arch or "ViT-B-32"))
    c.image_size = c.method.image.image_size
    c.method.image.image_size = c.get_ref("image_size")
    c.freeze = (r"image/(?!head).*",)  # the projection into the shared space learns
    c.epochs = 10.0
    c.batch_size = 1024
    c.optim.lr = 1e-3
    c.optim.weight_decay = 1e-4
    c.optim.warmup_epochs = 0.5
    return c

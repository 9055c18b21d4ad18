"""CLIP on a folder of your own pictures: `x.png` beside `x.txt`, class sub-folders, tars, CSV or
JSONL.

python -m vlp_jax train --config=configs/clip/folder.py --config.data.path=DIR --workdir=runs/mine

A small ViT (argument: any name of vlp_jax/models/archs/clip.py for a released size). The file
exists as the recipe for a laptop or one GPU and a few thousand to a few million pairs.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.archs.clip import clip_arch, small_arch


def get_config(arch: str = "") -> ConfigDict:
    """Args: name of a released size, or empty for the small one at 128 pixels."""
    c = common.base()
    sizes = (
        clip_arch(arch)
        if arch
        else small_arch(image_size=128, patch_size=16, width=256, num_layers=6)
    )
    c.method = common.clip_method("clip", sizes)
    c.image_size = sizes["image"]["image_size"]
    c.method.image.image_size = c.get_ref("image_size")
    c.epochs = 30.0
    c.batch_size = 64
    c.optim.lr = 5e-4
    c.optim.weight_decay = 0.1
    c.optim.warmup_epochs = 1.0
    c.data.image.scale = (0.6, 1.0)
    c.method.augment.flip = 0.0  # captions may say left and right
    # Retrieval over the pairs that are held out, unless evals.retrieval.path names another set.
    c.data.holdout = 0.1
    c.evals.retrieval = {"type": "retrieval", "path": c.data.get_oneway_ref("path"), "limit": 1000}
    c.log_every = 10
    c.checkpoint_every = 500
    return c

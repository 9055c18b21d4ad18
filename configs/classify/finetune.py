"""End-to-end fine-tuning of MAE's encoders on ImageNet-1k (arXiv:2111.06377 Table 9; mae.md 4.2).

python -m vlp_jax train --config=configs/classify/finetune.py:ViT-L-16
    --config.init_from='RUN:image/(?!norm_post).*' --workdir=W

`--config.optim.train_blocks=K` fine-tunes the last K blocks only (Figure 9). The file exists as the
recipe of layer-wise decay; argument: ViT-B-16, ViT-L-16 or ViT-H-14.
"""

from ml_collections import ConfigDict

from configs import common
from configs.classify.common import imagenet, recipe, strong
from vlp_jax.models.archs.mae import mae_arch

# base lr, layer decay, epochs, drop path: the recipe of the released models
PUBLISHED = {
    "ViT-B-16": (5e-4, 0.65, 100.0, 0.1),
    "ViT-L-16": (1e-3, 0.75, 50.0, 0.2),
    "ViT-H-14": (1e-3, 0.75, 50.0, 0.3),
}


def get_config(size: str = "ViT-B-16") -> ConfigDict:
    """Args: size."""
    size = size or "ViT-B-16"
    c = imagenet(recipe(mae_arch(size)["image"], 1000, head_init_std=2e-5))
    c.method.image.pool, c.method.image.cls_token = (
        "gap_norm",
        True,
    )  # the released models' read-out
    base_lr, c.optim.layer_decay, c.epochs, c.method.image.drop_path = PUBLISHED[size]
    strong(c)
    c.method.mixing.erase = 0.25
    c.batch_size = 1024
    common.scale_lr(c, base_lr)
    c.optim.lr_final = 1e-6 / c.optim.get_ref("lr")
    c.optim.b2, c.optim.eps, c.optim.weight_decay = 0.999, 1e-8, 0.05
    c.optim.warmup_epochs = 5.0
    return c

"""MAE pre-training as published (arXiv:2111.06377 Table 8; mae.md 4.1): ImageNet-1k, batch 4096,
800 epochs.

python -m vlp_jax train --config=configs/mae/pretrain.py:ViT-L-16 --workdir=W

The released models are the 1600 epochs of `--config.epochs=1600` with norm_pix, as here; the
paper's ablations have `--config.method.norm_pix=false`. The file exists as the reference recipe;
argument: ViT-B-16, ViT-L-16 or ViT-H-14.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.archs.mae import mae_arch


def get_config(size: str = "ViT-L-16") -> ConfigDict:
    """Args: size."""
    c = recipe(mae_arch(size or "ViT-L-16"))
    c.method.dtype = "bfloat16"
    c.method.remat = "full"
    c.epochs = 800.0
    c.batch_size = 4096
    c.sharding = "fsdp"
    common.scale_lr(c, 1.5e-4)
    c.optim.warmup_epochs = 40.0
    c.data.path = "tfds:imagenet2012:train"
    c.data.image.scale = (0.2, 1.0)
    c.data.workers = 16
    c.evals.knn = {"type": "knn", "label": "label", "train": c.data.path, "limit": 50_000}
    c.evals.knn.path = "tfds:imagenet2012:validation"
    shown = common.own_pictures(c, c.evals.knn.path)
    c.evals.reconstruction = {"type": "reconstruction", "path": shown}
    c.eval_every = 50_000
    return c


def recipe(arch: dict) -> ConfigDict:
    """What every recipe shares: AdamW (0.9, 0.95), weight decay 0.05 on all but biases and norms
    (the tokens do decay), no clipping, flips.

    Args:
      arch: {image, decoder} of models/archs/mae.py.
    """
    c = common.base()
    own = {"mask_ratio": 0.75, "masking": "random", "norm_pix": True}
    own["mask_token_in_encoder"] = False
    c.method = common.trunk_method("mae", {**arch, **own})
    c.image_size = arch["image"]["image_size"]
    c.method.image.image_size = c.get_ref("image_size")
    c.method.augment.flip = 0.5
    c.optim.b2, c.optim.eps = 0.95, 1e-8
    c.optim.weight_decay = 0.05
    c.optim.no_decay = (r"(.*/)?(bias|scale)",)
    c.optim.clip_norm = 0.0
    return c

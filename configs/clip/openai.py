"""CLIP as published (arXiv:2103.00020, Tables 18-20; clip.md 4.1): batch 32,768, 32 epochs.

python -m vlp_jax train --config=configs/clip/openai.py:ViT-B-32
--config.data.path='DIR/{0000..9999}.tar' --workdir=W

The file exists as the reference recipe; argument: any CLIP name of vlp_jax/models/archs/clip.py.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.archs.clip import clip_arch

# Peak learning rates of Table 20; sizes that the paper lacks take the nearest one's.
PEAK_LR = {"RN50x16": 4e-4, "RN50x64": 3.6e-4, "ViT-L-14": 4e-4, "ViT-L-14-336": 2e-5}


def get_config(arch: str = "ViT-B-32") -> ConfigDict:
    """Args: architecture; the published weights are the `-quickgelu` variants."""
    name = (arch or "ViT-B-32").removesuffix("-quickgelu")
    c = common.base()
    c.method = common.clip_method("clip", clip_arch(f"{name}-quickgelu"))
    c.image_size = c.method.image.image_size
    c.method.image.image_size = c.get_ref("image_size")
    c.method.dtype = "bfloat16"
    c.method.remat = "full"
    c.epochs = 1.0 if name.endswith("-336") else 32.0
    c.batch_size = 32_768
    c.sharding = "fsdp"
    c.optim.lr = PEAK_LR.get(name, 5e-4)
    c.optim.b2, c.optim.eps = (0.999, 1e-8) if name.startswith("RN") else (0.98, 1e-6)
    c.optim.weight_decay = 0.2
    c.optim.warmup_steps = 2000
    c.data.image.scale = (0.9, 1.0)  # open_clip's; the paper takes a random square crop
    c.data.workers = 16
    c.evals.imagenet = {
        "type": "zeroshot",
        "path": "tfds:imagenet2012:validation",
        "label": "label",
        "classes": "imagenet_classes.txt",
        "templates": "imagenet",
    }
    c.eval_every = 5000
    c.checkpoint_every = 1000
    return c

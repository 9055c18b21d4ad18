"""ALIGN as published (arXiv:2102.05918, sections 4 and 5.1; align.md 4): EfficientNet and BERT from
scratch on noisy alt-texts, batch 16,384, LAMB, linear decay.

python -m vlp_jax train --config=configs/clip/align.py:B7-base
--config.data.path='DIR/{0000..9999}.tar' --config.data.tokenizer=wordpieces.json --workdir=W

The file exists as the reference recipe; argument: a name of vlp_jax/models/archs/align.py, or
`small`, which trains on the embedded emoji in minutes.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from vlp_jax.data.filters import ALIGN
from vlp_jax.models.archs.align import align_arch, small_align

# TensorFlow's BatchNorm variables, which LAMB neither decays nor adapts (coyo-align); all else is.
NORMS = (r"image/(.*/)?bn/(scale|bias)",)


def get_config(arch: str = "L2-large") -> ConfigDict:
    """Args: a size of ALIGN, or `small`."""
    c, small = common.base(), arch == "small"
    c.method = common.clip_method("align", small_align() if small else align_arch(arch))
    c.image_size = c.method.image.image_size
    c.method.image.image_size = c.get_ref("image_size")
    c.data.context_length = c.method.text.context_length
    c.method.text.context_length = c.data.get_ref("context_length")
    c.method.text.dropout = 0.1
    c.method.augment.flip = 0.5
    # 346 x 346 pixels whatever the shape, of which 289 x 289 anywhere, in the middle in evaluation.
    c.data.image.crop, c.data.image.eval_crop = "squash_random", "squash"
    c.data.image.share = 289 / 346
    c.data.image.resample = "bilinear"
    c.optim.name = "lamb"
    c.optim.schedule = "linear"
    c.optim.weight_decay = 1e-5
    c.optim.b2, c.optim.eps, c.optim.clip_norm = 0.999, 1e-6, 0.0
    c.optim.no_decay = NORMS
    return _small(c) if small else _published(c)


def _published(c: ConfigDict) -> ConfigDict:
    c.method.dtype = "bfloat16"
    c.method.remat = "full"
    c.steps = 1_200_000
    c.batch_size = 16_384
    c.sharding = "fsdp"
    c.optim.lr = 1e-3
    c.optim.warmup_steps = 10_000
    c.data.tokenizer = "wordpieces.json"  # 100,000 pieces of one's own corpus (`data wordpieces`)
    c.data.filters = ConfigDict(dataclasses.asdict(ALIGN))
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


def _small(c: ConfigDict) -> ConfigDict:
    c.data.path = "builtin:emoji/noto-train"
    c.data.tokenizer = "bytes"
    c.data.image.share = 0.8
    c.method.augment.flip = 0.0  # labels say left and right
    c.method.image.drop_path = 0.0
    c.method.image.norm_momentum = 0.9  # 500 steps are few for 0.99
    c.method.text.dropout = 0.0
    c.method.init_temperature = 0.07
    c.steps = 500
    c.batch_size = 128
    c.optim.lr = 5e-3
    c.optim.warmup_steps = 50
    for name, data in (("cross_style", "twemoji"), ("heldout_concepts", "twemoji-test")):
        pairs = {"type": "retrieval", "path": f"builtin:emoji/{data}", "share_duplicates": True}
        c.evals[name] = pairs
    c.log_every = 50
    c.checkpoint_every = 500
    return c

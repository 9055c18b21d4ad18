"""SigLIP (arXiv:2303.15343): the sigmoid loss, MAP-pooled ViT, 64-token captions, lr 1e-3, wd 1e-4.

The file exists as the sigmoid counterpart of openai.py; argument: a SigLIP name of clip_archs.py.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.archs.clip import clip_arch


def get_config(arch: str = "ViT-B-16-SigLIP") -> ConfigDict:
    """Args: architecture. For the released vocabulary set data.tokenizer to spm:FILE and
    data.tokenizer_options.pad_id to 1.
    """
    c = common.base()
    c.method = common.clip_method("siglip", clip_arch(arch or "ViT-B-16-SigLIP"))
    c.method.image_mean = c.method.image_std = (0.5, 0.5, 0.5)
    c.method.init_logit_scale, c.method.init_logit_bias = 2.302585092994046, -10.0  # ln 10
    c.method.max_logit_scale = 6.907755278982137  # ln 1000
    c.image_size = c.method.image.image_size
    c.method.image.image_size = c.get_ref("image_size")
    c.data.context_length = c.method.text.context_length
    c.method.text.context_length = c.data.get_ref("context_length")
    c.data.tokenizer = "bytes"
    c.data.tokenizer_options.clean = "canonicalize"
    c.data.image.crop = "squash"
    c.data.image.eval_crop = "squash"
    c.method.dtype = "bfloat16"
    c.steps = 107_000
    c.batch_size = 32_768
    c.optim.lr = 1e-3
    c.optim.b2 = 0.95
    c.optim.weight_decay = 1e-4
    c.optim.warmup_steps = 20_000
    c.data.workers = 16
    return c

"""CLIP in minutes on two cores: trains on one emoji style, is tested on the style and the concepts
it has never seen.

The file exists as the recipe of `make quickstart`; argument: any image-text data set instead of the
embedded one.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.models.clip_archs import small_arch


def get_config(path: str = "") -> ConfigDict:
    """Args: path of another training set; empty is the embedded Noto style."""
    c = common.base()
    arch = small_arch(image_size=64, patch_size=16, width=192, num_layers=4)
    c.method = common.clip_method("clip", arch)
    c.image_size = 64
    c.method.image.image_size = c.get_ref("image_size")
    c.data.context_length = 24
    c.method.text.context_length = c.data.get_ref("context_length")
    c.method.unroll = True
    c.method.augment.crop_scale = (0.6, 1.0)
    c.data.path = path or "builtin:emoji/noto-train"
    c.data.image.crop = "squash"
    c.steps = 1500
    c.batch_size = 128
    c.optim.lr = 1e-3
    c.optim.weight_decay = 0.1
    c.optim.warmup_steps = 100
    for name, data in (("cross_style", "twemoji"), ("heldout_concepts", "twemoji-test")):
        c.evals[name] = {
            "type": "retrieval",
            "path": f"builtin:emoji/{data}",
            "share_duplicates": True,
        }
    for label in ("category", "subcategory"):
        templates = "single"
        c.evals[label] = {
            "type": "zeroshot",
            "path": "builtin:emoji/twemoji",
            "label": label,
            "templates": templates,
        }
    c.log_every = 50
    c.checkpoint_every = 500
    return c

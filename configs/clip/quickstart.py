"""CLIP in minutes on two cores: trains on one emoji style, is tested on the style and the concepts
it has never seen.

The file exists as the recipe of `make quickstart`; argument: any image-text data set instead of the
embedded one.
"""

from pathlib import Path

from ml_collections import ConfigDict

import vlp_jax
from configs import common
from vlp_jax.models.archs.clip import small_arch


def get_config(path: str = "") -> ConfigDict:
    """Args: path of another training set; empty is the embedded Noto style."""
    c = common.base()
    arch = small_arch(image_size=64, patch_size=16, width=192, num_layers=4)
    c.method = common.clip_method("clip", arch)
    c.image_size = 64
    c.method.image.image_size = c.get_ref("image_size")
    c.method.text.num_layers = 2  # labels are short: half the depth costs nothing in recall
    c.data.context_length = 20  # 99 % of the labels
    c.method.text.context_length = c.data.get_ref("context_length")
    c.method.image.activation = c.method.text.activation = "quick_gelu"
    c.method.unroll = True
    c.method.augment.crop_scale = (0.6, 1.0)  # no colour jitter: both styles share their colours
    c.data.path = path or "builtin:emoji/noto-train"
    c.data.image.crop = c.data.image.eval_crop = "squash"
    c.steps = 900
    c.batch_size = 128
    c.optim.lr = 1e-3
    c.optim.weight_decay = 0.2
    c.optim.warmup_steps = 100
    for name, data in (("cross_style", "twemoji"), ("heldout_concepts", "twemoji-test")):
        pairs = {"type": "retrieval", "path": f"builtin:emoji/{data}", "share_duplicates": True}
        c.evals[name] = pairs
    for label in ("category", "subcategory"):
        pictures = {"type": "zeroshot", "path": "builtin:emoji/twemoji", "label": label}
        c.evals[label] = pictures
    c.evals.category.classes = str(Path(vlp_jax.__file__).parent / "data/emoji/categories.json")
    c.log_every = 50
    c.checkpoint_every = 500
    return c

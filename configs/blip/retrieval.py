"""BLIP fine-tuned for retrieval on COCO or Flickr30k (arXiv:2201.12086, section 5.1 and Table 14):
ITC and ITM at 384 pixels, captions of one picture are no negatives.

python -m vlp_jax train --config=configs/blip/retrieval.py:base --config.init_from=PRETRAINED
    --config.data.path=dataset_coco.json:train+restval --config.data.tokenizer=VOCAB.txt --workdir=W

The file exists as that recipe; argument: base or large, or the folder of `data prepare
emoji_scenes` for its small form. `data.fields.group` names the number of a caption's picture.
"""

from ml_collections import ConfigDict

from configs.blip.common import published, recipe, texts
from configs.blip.tiny import pairs, small, small_towers

RATES = {"base": 1e-5, "large": 5e-6}
PAIRS = 566_747  # captions of COCO's training split


def get_config(what: str = "base") -> ConfigDict:
    """Args: base or large, or a folder of scenes."""
    what = what or "base"
    if what not in RATES:
        return _small(what)
    c = _of(published(what, 384, roles="encoder"), 35)
    c.optim.lr = RATES[what]
    c.method.embed_dim = 256
    c.method.queue = 57_600
    c.method.alpha_examples = PAIRS
    c.batch_size, c.epochs = 256, 6.0
    c.optim.schedule = "cosine"
    c.data.path = "coco/dataset_coco.json:train+restval"  # the rest is val and test
    c.data.captions_per_picture = 5
    c.data.fields.group = {"key": "image_id"}
    return c


def _of(towers: dict, length: int) -> ConfigDict:
    c = recipe(towers)
    texts(c, length)
    c.method.losses = ("itc", "itm")
    c.method.negatives, c.method.negative_floor = "own", 0.0
    return c


def _small(scenes: str) -> ConfigDict:
    c = small(_of(small_towers(roles="encoder"), 20), scenes)
    c.method.embed_dim, c.method.queue = 64, 1024
    c.method.momentum = 0.99
    c.method.alpha_examples = 6000
    c.steps, c.optim.lr = 400, 2e-4
    c.evals.retrieval = pairs(scenes)
    return c

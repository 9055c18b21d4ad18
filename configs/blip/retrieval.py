"""BLIP fine-tuned for retrieval on COCO or Flickr30k (arXiv:2201.12086, section 5.1 and Table 14):
ITC and ITM at 384 pixels, captions of one picture are no negatives.

python -m vlp_jax train --config=configs/blip/retrieval.py:base --config.init_from=PRETRAINED
    --config.data.path=dataset_coco.json --config.data.tokenizer=VOCAB.txt --workdir=W

The file exists as that recipe; argument: base or large. `data.fields.group` names the number of a
caption's picture.
"""

from ml_collections import ConfigDict

from configs.blip.common import published, recipe, texts

RATES = {"base": 1e-5, "large": 5e-6}
PAIRS = 566_747  # captions of COCO's training split


def get_config(size: str = "base") -> ConfigDict:
    """Args: base or large."""
    size = size or "base"
    c = recipe(published(size, 384))
    c.optim.lr = RATES[size]
    texts(c, 35)
    c.method.losses = ("itc", "itm")
    c.method.text.roles = "encoder"
    c.method.embed_dim = 256
    c.method.queue = 57_600
    c.method.alpha_examples = PAIRS
    c.method.negatives, c.method.negative_floor = "own", 0.0
    c.batch_size, c.epochs = 256, 6.0
    c.optim.schedule = "cosine"
    c.data.path = "coco/dataset_coco.json"
    c.data.captions_per_picture = 5
    c.data.fields.group = {"key": "image_id"}
    return c

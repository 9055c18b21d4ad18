"""BLIP-2 fine-tuned for retrieval on COCO (arXiv:2301.12597, section 4.4 and Table 5): all three
losses at 364 pixels, the eye learns too, each of its layers slower than the next; captions of one
picture match it alike.

python -m vlp_jax train --config=configs/blip2/retrieval.py:g --config.init_from=PRETRAINED
    --config.data.path=dataset_coco.json:train+restval --config.data.tokenizer=VOCAB.txt --workdir=W

The file exists as that recipe; argument: g or L, or SCENES of `data prepare emoji_scenes` for its
small form, which starts from the small form of the first stage. `data.fields.group` names the
number of a caption's picture.
"""

from ml_collections import ConfigDict

from configs.blip2.common import published, recipe
from configs.blip2.tiny import small
from vlp_jax.models.archs.blip2 import VISION


def get_config(what: str = "g") -> ConfigDict:
    """Args: g or L, or a folder of scenes."""
    what = what or "g"
    if what not in VISION:
        return _small(what)
    c = recipe(published(what, 364), 35)
    c.method.frozen_tower = False
    c.method.embed_dim = 256
    c.method.dtype, c.method.remat = "bfloat16", "full"
    c.batch_size, c.epochs = 224, 5.0
    c.optim.lr, c.optim.warmup_steps = 1e-5, 1000
    c.optim.layer_decay = 0.95
    c.data.path = "coco/dataset_coco.json:train+restval"  # the rest is val and test
    c.data.captions_per_picture = 5
    c.data.fields.group = {"key": "image_id"}
    c.evals.retrieval = {
        "type": "retrieval",
        "path": "coco/dataset_coco.json:test",
        "captions": 5,
        "rerank": 128,
    }
    return c


def _small(scenes: str) -> ConfigDict:
    c = small(scenes)
    c.method.frozen_tower = False
    c.steps, c.optim.lr, c.optim.layer_decay = 400, 2e-4, 0.9
    return c

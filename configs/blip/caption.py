"""BLIP fine-tuned for captions on COCO (arXiv:2201.12086, section 5.2 and Table 14): LM at 384
pixels behind the prompt "a picture of", which is not learned.

python -m vlp_jax train --config=configs/blip/caption.py:base --config.init_from=PRETRAINED
    --config.data.path=dataset_coco.json:train+restval --config.data.tokenizer=VOCAB.txt --workdir=W

The file exists as that recipe; argument: base or large, or the folder of `data prepare
emoji_scenes` for its small form, which lists what is there.
"""

from ml_collections import ConfigDict

from configs.blip.common import published, recipe, texts
from configs.blip.tiny import captions, small, small_towers

RATES = {"base": 1e-5, "large": 2e-6}


def get_config(what: str = "base") -> ConfigDict:
    """Args: base or large, or a folder of scenes."""
    what = what or "base"
    if what not in RATES:
        return _small(what)
    c = _of(published(what, 384, roles="decoder"), 40)
    c.optim.lr = RATES[what]
    c.method.prompt_tokens = 4  # [DEC] a picture of
    c.batch_size, c.epochs = 256, 5.0
    c.optim.schedule = "cosine"
    c.data.path = "coco/dataset_coco.json:train+restval"  # the rest is val and test
    c.data.templates = ("a picture of {c}",)
    c.data.captions_per_picture = 5
    return c


def _of(towers: dict, length: int) -> ConfigDict:
    c = recipe(towers)
    texts(c, length)
    c.method.losses = ("lm",)
    return c


def _small(scenes: str) -> ConfigDict:
    c = small(_of(small_towers(roles="decoder"), 12), scenes)
    c.data.caption = "first"  # the plain list, which says nothing of left and right
    c.method.augment.flip = 0.5
    c.batch_size, c.steps, c.optim.lr = 32, 5000, 8e-4
    c.evals.captions = captions(scenes)
    return c

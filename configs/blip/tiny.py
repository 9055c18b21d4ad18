"""BLIP in minutes on two cores, on composed scenes of emoji: `data prepare emoji_scenes`.

python -m vlp_jax data prepare emoji_scenes --out=runs/scenes --changes=1 --train=12000
    --vqa-train=18000
python -m vlp_jax train --config=configs/blip/words.py:runs/scenes --workdir=runs/words
python -m vlp_jax train --config=configs/blip/tiny.py:runs/scenes --workdir=runs/blip
    --config.init_from.image=runs/words:image

The file exists as the small form of pre-training, and for what its fine-tunings share with it;
argument: the folder of the scenes. README.md of configs has the whole way.
"""

from ml_collections import ConfigDict

from configs.blip.common import recipe, texts
from vlp_jax.models.archs.blip import blip_towers

END = 3  # [SEP] in the vocabulary of the scenes
# What the tower of words.py, from which pre-training starts, lacks.
FRESH = ("text/.*", "(image_proj|text_proj|itm)/.*", "temperature")
# Objects were changed one by one when the scenes were made. Flips would make captions wrong.
CHANGES = dict(crop_scale=(0.8, 1.0), flip=0.0)


def small_towers(**text: str | float) -> dict:
    """A ViT of 37 tokens and a MED, both of width 128, for 96 pixels and at most 158 words."""
    towers = blip_towers("base", 96)
    towers["image"] |= dict(width=128, num_layers=4, head_width=32, pos_embed="sincos")
    towers["image"]["stem"] = (4, 2)
    sizes = dict(width=128, num_layers=3, num_heads=4, vocab_size=160, context_length=48)
    towers["text"] |= sizes | dict(weight_init="mae") | text
    return towers


def small(c: ConfigDict, scenes: str, part: str = "train") -> ConfigDict:
    """A recipe of BLIP as it is on the tars of a part of the scenes."""
    c.method.end_id, c.method.text.dropout = END, 0.0
    c.method.rand_augment.magnitude = 0.0
    return on_scenes(c, scenes, part)


def on_scenes(c: ConfigDict, scenes: str, part: str) -> ConfigDict:
    """Any method that reads their texts."""
    c.method.unroll = True
    c.method.augment.update(CHANGES)
    c.image_size = c.method.image.image_size
    c.data.image.crop = c.data.image.eval_crop = "squash"
    c.data.path = f"{scenes}/emoji_scenes-{part}-*.tar"
    c.data.tokenizer = f"{scenes}/vocab.txt"
    c.batch_size, c.epochs = 64, 0.0
    c.optim.warmup_steps, c.optim.clip_norm = 100, 1.0
    c.optim.schedule, c.optim.lr_by_epoch = "cosine", False
    c.ema_decay = 0.998
    c.log_every, c.checkpoint_every = 50, 500
    return c


def get_config(scenes: str = "") -> ConfigDict:
    """Args: the folder of the scenes."""
    scenes = scenes or "runs/scenes"
    c = recipe(small_towers())
    texts(c, 20)
    small(c, scenes)
    c.fresh = FRESH
    c.method.embed_dim = 64
    c.method.queue = 1024
    c.method.momentum = 0.99
    c.method.alpha_examples = 64 * 600
    c.steps, c.optim.lr = 2400, 7e-4
    c.evals.retrieval = pairs(scenes)
    c.evals.captions = captions(scenes)
    return c


def pairs(scenes: str) -> dict:
    """Retrieval among unseen scenes in the other style, by cosines and again by matching."""
    path = f"{scenes}/emoji_scenes-test-*.tar"
    return {"type": "retrieval", "path": path, "share_duplicates": True, "rerank": 32}


def captions(scenes: str) -> dict:
    """What is written of unseen scenes in the other style."""
    path, how = f"{scenes}/emoji_scenes-test-*.tar", {"max_new": 20, "beams": 3}
    return {"type": "caption", "path": path, "names": "objects", "how": how}

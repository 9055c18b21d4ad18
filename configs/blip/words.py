"""The tower that BLIP's small form starts from: it learns which words a caption has
(vlp_jax/methods/caption_words.py), of composed scenes of emoji.

python -m vlp_jax train --config=configs/blip/words.py:runs/scenes --workdir=runs/words

The file exists since a network of sentences needs ten times as long to find out what is where;
argument: the folder of the scenes.
"""

from ml_collections import ConfigDict

from configs import common
from configs.blip.common import texts
from configs.blip.tiny import on_scenes, small_towers
from vlp_jax.augment.pictures import CLIP_MEAN, CLIP_STD


def get_config(scenes: str = "") -> ConfigDict:
    """Args: the folder of the scenes."""
    towers = small_towers()
    c = common.base()
    words = {"vocab_size": towers["text"]["vocab_size"]}
    c.method = common.trunk_method("caption_words", {"image": towers["image"], **words})
    c.method.image_mean, c.method.image_std = CLIP_MEAN, CLIP_STD
    texts(c, 25)
    on_scenes(c, scenes or "runs/scenes", "train")
    c.steps, c.optim.lr, c.optim.warmup_steps = 2000, 2e-3, 200
    c.optim.weight_decay = 0.05
    return c

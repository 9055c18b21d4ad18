"""BLIP in minutes on two cores, on composed scenes of emoji: `data prepare emoji_scenes`.

python -m vlp_jax data prepare emoji_scenes --out=runs/scenes
python -m vlp_jax train --config=configs/blip/tiny.py:runs/scenes --workdir=runs/blip

The file exists as the small form of pre-training; argument: the folder of the scenes.
"""

from ml_collections import ConfigDict

from configs.blip.common import recipe, texts
from vlp_jax.models.archs.blip import blip_towers

END = 3  # [SEP] in the vocabulary of the scenes


def small_towers(**text: str | float) -> dict:
    """A ViT of 37 tokens and a MED, both of width 128, for 96 pixels and at most 158 words."""
    towers = blip_towers("base", 96)
    towers["image"] |= dict(width=128, num_layers=4, head_width=32)
    sizes = dict(width=128, num_layers=3, num_heads=4, vocab_size=160, context_length=48)
    towers["text"] |= sizes | text
    return towers


def get_config(scenes: str = "") -> ConfigDict:
    """Args: the folder of the scenes."""
    scenes = scenes or "runs/scenes"
    c = recipe(small_towers())
    texts(c, 24)
    c.method.end_id = END
    c.method.unroll = True
    c.method.text.dropout = 0.0
    c.method.embed_dim = 64
    c.method.queue = 1024
    c.method.momentum = 0.99
    c.method.alpha_examples = 64 * 600
    c.method.augment.flip = 0.0  # captions say left and right
    c.method.augment.crop_scale = (1.0, 1.0)  # and what is there
    c.method.rand_augment.magnitude = 0.0
    c.data.path = f"{scenes}/emoji_scenes-train-*.tar"
    c.data.tokenizer = f"{scenes}/vocab.txt"
    c.batch_size, c.steps = 64, 3000
    c.optim.lr, c.optim.warmup_steps, c.optim.clip_norm = 5e-4, 100, 1.0
    c.optim.schedule, c.optim.lr_by_epoch = "cosine", False
    pairs = {"type": "retrieval", "path": f"{scenes}/emoji_scenes-test-*.tar"}
    c.evals.retrieval = {**pairs, "share_duplicates": True}
    c.evals.captions = {"type": "caption", "path": pairs["path"], "limit": 500}
    c.evals.captions.how = {"max_new": 20, "beams": 3}
    c.log_every = 50
    c.checkpoint_every = 500
    return c

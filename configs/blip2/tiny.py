"""BLIP-2's first stage in minutes on two cores, on composed scenes of emoji: `data prepare
emoji_scenes`. The frozen eye is that of BLIP's small form (configs/blip/tiny.py).

python -m vlp_jax train --config=configs/blip2/tiny.py:runs/scenes,runs/blip --workdir=runs/blip2

The file exists as the small form of the first stage, and for what others share with it; argument:
the folder of the scenes, and the run, or converted folder, of the eye.
"""

from ml_collections import ConfigDict

from configs.blip.tiny import END, captions, on_scenes, pairs, small_towers
from configs.blip2.common import recipe, start


def tiny_towers(**qformer: int) -> dict:
    """BLIP's small ViT, 37 tokens of 128 numbers without their last norm, and a Q-Former of 8
    queries and at most 158 words."""
    sizes = dict(num_queries=8, width=128, num_layers=4, num_heads=4, mlp_ratio=4.0)
    words = dict(vocab_size=160, context_length=48, weight_init="mae")
    image = small_towers()["image"] | {"pool": "tokens"}
    return {"image": image, "qformer": dict(name="qformer") | sizes | words | qformer}


def small(scenes: str) -> ConfigDict:
    """The first stage on the tars of the scenes, from anything."""
    c = recipe(tiny_towers(), 20)
    on_scenes(c, scenes, "train")
    c.method.end_id, c.method.qformer.dropout = END, 0.0
    c.method.embed_dim = 64
    c.steps, c.optim.lr = 2000, 7e-4
    c.evals.retrieval = pairs(scenes)
    c.evals.captions = captions(scenes)
    return c


def get_config(what: str = "") -> ConfigDict:
    """Args: SCENES[,EYE]."""
    scenes, _, eye = what.partition(",")
    c = small(scenes or "runs/scenes")
    if eye:  # the norm goes on from the eye's last
        start(c, {"image": f"{eye}:image", "image_norm": f"{eye}:image/norm_post"})
    return c

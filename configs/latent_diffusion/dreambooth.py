"""DreamBooth (arXiv:2208.12242): a U-Net learns one thing from a few pictures; pictures of its
class that the model drew before keep it what it was (prior preservation).

python -m vlp_jax sample --checkpoint=SD --prompt='a dog' --n=200 --out=PRIOR
python -m vlp_jax train --config=configs/latent_diffusion/dreambooth.py:OWN,PRIOR
    --config.init_from=SD --workdir=W

OWN holds 3 to 5 pictures with captions like "a sks dog", PRIOR the others with theirs. Half of all
draws are of each, their mean losses are added; which falls where is shuffled, so a batch of 2 may
have two of one and none of the other, whose loss is 0 in that step. The file exists as that recipe;
argument: both folders, and the size of models/archs/unet.py where it is not sd1.
"""

from ml_collections import ConfigDict

from configs.latent_diffusion.common import BFLOAT16, pad_texts, recipe, released


def get_config(words: str = "") -> ConfigDict:
    """Args: OWN,PRIOR[,size]."""
    own, prior, size = [*(words or "OWN,PRIOR").split(","), "sd1"][:3]
    c = recipe(512, **released(size, drop=0.0, prior_weight=1.0), **BFLOAT16)
    pad_texts(c)
    c.data.path, c.data.weights = f"{own},{prior}", (1.0, 1.0)
    c.data.workers = 0
    c.batch_size, c.steps = 2, 800
    c.optim.lr, c.optim.warmup_steps = 5e-6, 0
    c.ema_decay = 0.0
    return c

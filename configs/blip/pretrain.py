"""BLIP's pre-training as published (arXiv:2201.12086, section 4.1; blip.md 4): ITC, ITM and LM on
14M or 129M pairs, batch 2,880 (large: 2,400), 20 epochs.

python -m vlp_jax train --config=configs/blip/pretrain.py:base --workdir=W
    --config.data.path='DIR/{00000..01400}.tar' --config.data.tokenizer=VOCAB.txt
    --config.init_from.image=VIT:image --config.init_from.text=BERT:text

The file exists as the reference recipe; argument: base or large. The released configuration's
decay is 0.9 an epoch; the paper says 0.85. The reference draws negatives from each device's 75
pairs, here they come from the whole batch.
"""

from ml_collections import ConfigDict

from configs.blip.common import published, recipe, texts

BATCH = {"base": (2880, 3e-4, 0.0), "large": (2400, 2e-4, 0.1)}  # size, rate, drop path
PAIRS = 14_000_000


def get_config(size: str = "base") -> ConfigDict:
    """Args: base or large."""
    size = size or "base"
    c = recipe(published(size, 224))
    c.batch_size, c.optim.lr, c.method.image.drop_path = BATCH[size]
    texts(c, 30)
    c.data.tokenizer_options.clean = "blip_30"
    c.method.embed_dim = 256
    c.method.queue = 57_600
    c.method.alpha_examples = 2 * PAIRS  # alpha rises over two epochs; set it with your data
    c.method.augment.crop_scale = (0.2, 1.0)
    c.method.dtype, c.method.remat = "bfloat16", "full"
    c.method.rows_dtype = "bfloat16"
    c.epochs = 20.0
    c.optim.schedule, c.optim.warmup_steps = "exponential", 3000
    c.optim.lr_decay, c.optim.lr_final = 0.9, 1e-6 / c.optim.get_ref("lr")
    c.data.path = "blip/{00000..01400}.tar"
    c.data.workers = 16
    c.checkpoint_every = 1000
    return c

"""BLIP-2's first stage as published (arXiv:2301.12597, section 3.4; blip2.md 4): a Q-Former learns
beside a frozen eye on 129M pairs, 250,000 steps of 1,680 (ViT-g) or 2,320 (ViT-L).

python -m vlp_jax train --config=configs/blip2/pretrain.py:g,BERT,EYE --workdir=W
    --config.data.path='DIR/{00000..12900}.tar' --config.data.tokenizer=VOCAB.txt

The file exists as the reference recipe; argument: g or L, then converted folders, of
bert-base-uncased and of the eye: of ViT-g a released BLIP-2, of ViT-L CLIP's ViT-L/14, whose last
layer is left out. The released configuration warms up in 5,000 steps to 10 epochs with b2=0.999;
these are the paper's numbers.
"""

from ml_collections import ConfigDict

from configs.blip2.common import from_bert, from_tower, half_precision, published, recipe, start

BATCH = {"g": 1680, "L": 2320}


def get_config(what: str = "g") -> ConfigDict:
    """Args: SIZE[,BERT[,EYE]]."""
    size, bert, eye = [*(what or "g").split(","), "", ""][:3]
    c = recipe(published(size), 32)
    c.batch_size, c.steps = BATCH[size], 250_000
    half_precision(c)
    c.method.remat = "full"
    c.method.embed_dim = 256
    start(c, (from_bert(bert) if bert else {}) | (from_tower(size, eye) if eye else {}) or "")
    c.optim.lr, c.optim.lr_final, c.optim.warmup_steps = 1e-4, 0.1, 2000
    c.optim.lr_by_epoch = False  # 420M pairs are three epochs
    c.data.path = "blip2/{00000..12900}.tar"  # captions of a picture: one is drawn each time
    c.data.workers = 16
    c.checkpoint_every = 1000
    return c

"""BLIP-2's second stage as published (arXiv:2301.12597, section 3.4; blip2.md 4): the Q-Former of
the first stage learns to speak to a frozen language model, 80,000 steps of 1,920 (OPT, Vicuna) or
1,520 (Flan-T5, whose captions are cut in two at random).

python -m vlp_jax train --config=configs/blip2/stage2.py:g,opt-2.7b,PRETRAINED,LM --workdir=W
    --config.data.path='DIR/{00000..12900}.tar' --config.data.tokenizer=LM/tokenizer.json

The file exists as the reference recipe; argument: g or L, a language model of models/archs, then
the first stage and the converted language model. The reference ends OPT's texts with a line, here
it is the tokenizer's own end.
"""

from ml_collections import ConfigDict

from configs.blip2.common import STAGE_1, before_lm, encodes, start


def get_config(what: str = "g,opt-2.7b") -> ConfigDict:
    """Args: SIZE,LM[,PRETRAINED[,FOLDER OF LM]]."""
    size, name, first, folder = [*(what or "g").split(","), "", "", ""][:4]
    c = before_lm(size, name or "opt-2.7b", 224, 32, "none")
    c.method.split = encodes(c)
    c.batch_size, c.steps = 1520 if encodes(c) else 1920, 80_000
    found = {part: f"{first}:{part}" for part in STAGE_1} if first else {}
    start(c, found | ({"lm": f"{folder}:lm"} if folder else {}) or "")
    c.optim.lr, c.optim.lr_final, c.optim.warmup_steps = 1e-4, 0.5, 2000
    c.optim.lr_by_epoch = False
    c.data.path = "blip2/{00000..12900}.tar"
    return c

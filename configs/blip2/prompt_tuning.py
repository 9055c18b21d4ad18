"""Prompt tuning (arXiv:2104.08691, section 3 and appendix A) in front of BLIP-2's second stage:
100 learned vectors before the queries' are all that learns, here of COCO's captions, 30,000 steps
of 32 at a rate of 0.3 (numbers that no sheet has; not checked).

python -m vlp_jax train --config=configs/blip2/prompt_tuning.py:g,opt-2.7b --workdir=W
    --config.init_from=STAGE2 --config.data.path=DIR
    --config.data.tokenizer=LM/tokenizer.json

The file exists as that recipe; argument: g or L, and a language model of models/archs.
"""

from ml_collections import ConfigDict

from configs.blip2.common import before_lm


def get_config(what: str = "g,opt-2.7b") -> ConfigDict:
    """Args: SIZE[,LM]."""
    size, name = [*(what or "g").split(","), ""][:2]
    c = before_lm(size, name or "opt-2.7b", 224, 32, "none")
    c.method.soft_prompt = 100
    c.freeze = (r"(image_norm|qformer|proj)/.*", "queries")
    c.fresh = ("soft_prompt",)
    c.batch_size, c.steps = 32, 30_000
    c.optim.name, c.optim.lr, c.optim.schedule = "adafactor", 0.3, "constant"
    c.optim.b1, c.optim.weight_decay, c.optim.lr_by_epoch = 0.0, 1e-5, False
    c.data.path = "coco/dataset_coco.json:train+restval"
    c.data.captions_per_picture = 5
    c.evals.caption = {"type": "caption", "path": "coco/dataset_coco.json:test"}
    return c

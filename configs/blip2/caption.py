"""BLIP-2 fine-tuned for captions on COCO (arXiv:2301.12597, section 4.2 and Table 3; blip2.md 4):
at 364 pixels behind "a photo of", which is not learned; eye and Q-Former learn, each of the eye's
layers slower than the next, the language model does not.

python -m vlp_jax train --config=configs/blip2/caption.py:g,opt-2.7b --config.init_from=STAGE2
    --config.data.path=dataset_coco.json:train+restval --config.data.tokenizer=LM/tokenizer.json
    --workdir=W

The file exists as that recipe; argument: g or L, and a language model of models/archs. The released
configuration has no decay by layers (`--config.optim.layer_decay=1`).
"""

from ml_collections import ConfigDict

from configs.blip2.common import before_lm, encodes

PROMPT = "a photo of"


def get_config(what: str = "g,opt-2.7b") -> ConfigDict:
    """Args: SIZE[,LM]."""
    size, name = [*(what or "g").split(","), ""][:2]
    c = before_lm(size, name or "opt-2.7b", 364, 40, "none")
    c.method.frozen_tower = False
    c.method.prompt_tokens = 3 if encodes(c) else 4  # with the start, which a T5 has not
    c.batch_size, c.epochs = 256, 5.0
    c.optim.lr, c.optim.warmup_steps, c.optim.layer_decay = 1e-5, 1000, 0.95
    c.data.path = "coco/dataset_coco.json:train+restval"  # the rest is val and test
    c.data.templates = (f"{PROMPT} {{c}}",)
    c.data.captions_per_picture = 5
    c.evals.caption = {
        "type": "caption",
        "path": "coco/dataset_coco.json:test",
        "prompt": PROMPT,
        "how": {"beams": 5, "max_new": 30, "min_new": 8},
    }
    return c

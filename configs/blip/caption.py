"""BLIP fine-tuned for captions on COCO (arXiv:2201.12086, section 5.2 and Table 14): LM at 384
pixels behind the prompt "a picture of", which is not learned.

python -m vlp_jax train --config=configs/blip/caption.py:base --config.init_from=PRETRAINED
    --config.data.path=dataset_coco.json --config.data.tokenizer=VOCAB.txt --workdir=W

The file exists as that recipe; argument: base or large.
"""

from ml_collections import ConfigDict

from configs.blip.common import published, recipe, texts

RATES = {"base": 1e-5, "large": 2e-6}


def get_config(size: str = "base") -> ConfigDict:
    """Args: base or large."""
    size = size or "base"
    c = recipe(published(size, 384, roles="decoder"))
    c.optim.lr = RATES[size]
    texts(c, 40)
    c.method.losses = ("lm",)
    c.method.prompt_tokens = 4  # [DEC] a picture of
    c.batch_size, c.epochs = 256, 5.0
    c.optim.schedule = "cosine"
    c.data.path = "coco/dataset_coco.json"
    c.data.templates = ("a picture of {c}",)
    c.data.captions_per_picture = 5
    return c

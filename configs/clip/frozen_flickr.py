"""CLIP from frozen encoders on Flickr30k: ResNet-50 and DistilBERT came trained, two heads learn.

python -m vlp_jax convert resnet50.pth R
python -m vlp_jax convert distilbert-base-multilingual-cased T
python -m vlp_jax data cache --config=configs/clip/frozen_flickr.py --config.data.path=DIR --out=C
python -m vlp_jax train --config=configs/clip/frozen_flickr.py --config.data.path=C --workdir=W

each with `--config.init_from.image=R:image --config.init_from.text=T:text
--config.data.tokenizer=T/tokenizer.json`. DIR is Flickr30k as downloaded; without the cache, train
on DIR itself: the same numbers, slower. Arguments: nothing; `blog` (ResNet-34, cosines without a
scale); `notebook` (both encoders learn, soft targets). The file exists as the recipe of the
exercise and of the public ones that it comes from (frozen_clip_flickr.md 9).
"""

import math

from ml_collections import ConfigDict

from configs import common
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.models.archs.distilbert import ARCHS as TEXTS
from vlp_jax.models.archs.resnet import ARCHS as IMAGES

MULTILINGUAL, UNCASED = "distilbert-base-multilingual-cased", "distilbert-base-uncased"
VARIANTS = ("", "blog", "notebook")


def frozen(image: dict, text: dict, **method: object) -> ConfigDict:
    """A recipe on two encoders; method: what of the method is set."""
    c = common.base()
    c.method = common.clip_method("frozen_clip", {"image": image, "text": text})
    c.method.embed_dim, c.method.text_length = 256, 64
    usual = {"targets": "pairs", "head_dropout": 0.1, "head_bias": True, "learn_scale": False}
    for key, value in {**usual, "frozen_encoders": True, **method}.items():
        c.method[key] = value
    c.method.init_logit_scale = math.log(1 / 0.07)
    c.image_size = image["image_size"]
    c.method.image.image_size = c.get_ref("image_size")
    c.data.context_length = c.method.text_length
    c.method.text_length = c.data.get_ref("context_length")
    c.data.tokenizer_options.clean = "none"  # as transformers reads texts
    c.data.image.crop = "squash"  # without chance, so that features can be kept
    c.data.image.resample, c.data.image.eval_crop = "bilinear", "center_875"
    c.data.image.alpha = "drop"
    c.data.holdout = 0.03  # of 31,783 pictures: about the 1,000 that are held out for tests
    c.evals.retrieval = {"type": "retrieval", "path": c.data.get_oneway_ref("path")}
    c.evals.retrieval.captions = 5
    c.log_every = 20
    return c


def get_config(variant: str = "") -> ConfigDict:
    """Args: see above."""
    if variant not in VARIANTS:
        raise UserError(f"frozen_flickr.py: unknown {variant!r}{nearest(variant, VARIANTS)}")
    depth = 34 if variant == "blog" else 50
    texts = UNCASED if variant == "notebook" else MULTILINGUAL
    c = frozen(dict(IMAGES[f"resnet{depth}"]["image"]), dict(TEXTS[texts]["text"]))
    c.epochs, c.batch_size = 3.0, 128
    c.data.captions_per_picture = 2
    c.data.fields = {"group": {"key": "picture"}}  # captions of one picture are no negatives
    c.optim.lr, c.optim.weight_decay = 1e-3, 1e-3
    c.optim.b2, c.optim.eps = 0.999, 1e-8
    c.optim.warmup_steps = 50
    if variant == "blog":
        _blog(c)
    elif variant == "notebook":
        _notebook(c)
    return c


def _blog(c: ConfigDict) -> None:
    """Family A: wide heads without biases, half of whose second layer is dropped."""
    c.method.embed_dim, c.method.head_dropout, c.method.head_bias = 512, 0.5, False
    c.method.init_logit_scale = 0.0  # plain cosines: the loss stays above 2.2 at this batch
    c.data.context_length, c.image_size = 32, 128
    c.epochs, c.batch_size = 5.0, 64
    c.optim.weight_decay = 0.0
    c.optim.schedule, c.optim.warmup_steps = "constant", 0


def _notebook(c: ConfigDict) -> None:
    """Family B, the notebook and not its config.py: the encoders learn slowly, only heads decay."""
    c.method.frozen_encoders, c.method.targets, c.method.init_logit_scale = False, "soft", 0.0
    c.data.context_length, c.data.captions_per_picture = 200, 5
    c.data.fields = {}
    c.epochs, c.batch_size = 4.0, 32
    c.optim.lr_groups = (("image/.*", 0.1), ("text/.*", 0.01))
    c.optim.no_decay = (r"(image|text|logit_scale)(/.*)?",)
    c.optim.schedule, c.optim.warmup_steps, c.optim.clip_norm = "constant", 0, 0.0

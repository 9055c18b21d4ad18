"""SimCLR on ImageNet-1k: batch 4096, LARS, global BatchNorm (arXiv:2002.05709; v2,
arXiv:2006.10029).

python -m vlp_jax train --config=configs/simclr/imagenet.py:r50x1 --workdir=W

Argument: ARCH[,v2][,linear] with ARCH r50x1, r50x2, r50x4, r152x3+sk, ... Linear evaluation:
configs/classify/simclr_linear.py:W, fine-tuning: simclr_finetune.py:W. The file exists as the
published recipe of both papers; v1 has a 2-layer head and weight decay 1e-6, v2 a 3-layer head,
1e-4 and 800 epochs. Smaller batches: --config.batch_size=256, with the rate following its square
root, or, with `linear`, the batch itself (both 4.8 at 4096). Both crops are cut from the whole
picture on the device, to which it travels squashed to 320 x 320, the bytes of two crops.
"""

from ml_collections import ConfigDict

from configs.common import own_pictures
from configs.simclr.common import lars, recipe, resnet
from vlp_jax.core.errors import UserError, nearest

WORDS = ("v1", "v2", "sqrt", "linear")  # the first of each pair is the default


def get_config(args: str = "") -> ConfigDict:
    """Args: a ResNet's name, empty for r50x1; then words of WORDS."""
    arch, *words = args.split(",")
    for word in words:
        if word not in WORDS:
            raise UserError(f"--config=...:{args}: unknown {word!r}{nearest(word, WORDS)}")
    second = "v2" in words
    c = recipe(resnet(arch or "r50x1", 224), 4096, strength=1.0, blur=0.5)
    c.method.dtype = "bfloat16"
    c.method.canvas, c.data.image.crop = 320, "squash"
    c.method.head.num_layers = 3 if second else 2
    c.method.head.batch_norm = second
    c.method.augment.brightness_adds = not second
    lars(c, "linear" if "linear" in words else "sqrt", weight_decay=1e-4 if second else 1e-6)
    c.epochs = 800.0 if second else 1000.0
    c.data.path = "tfds:imagenet2012:train"
    c.data.workers, c.data.image.eval_crop = 16, "center_875"
    test = dict(train=c.data.path, path="tfds:imagenet2012:validation", label="label")
    c.evals.knn = {"type": "knn", "limit": 50_000, **test}
    c.evals.neighbours = {"type": "neighbours", "path": own_pictures(c, test["path"])}
    return c

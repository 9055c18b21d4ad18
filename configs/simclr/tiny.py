"""SimCLR in minutes on two cores: the embedded emoji at 32 pixels, a narrow ResNet-18.

python -m vlp_jax train --config=configs/simclr/tiny.py --workdir=W

Fashion-MNIST, prepared in DIR: --config.data.path='DIR/*-train-*.tar'
--config.evals.probe.train='DIR/*-train-*.tar' --config.evals.probe.path='DIR/*-test-*.tar'
--config.evals.probe.label=label, and the same for knn; without these the emoji evaluate it, and
`neighbours` alone is of data.path. The file exists as the laptop's form of the other recipes, for
the studies.
"""

from ml_collections import ConfigDict

from configs.common import own_pictures
from configs.simclr.common import recipe, resnet


def get_config(arch: str = "") -> ConfigDict:
    """Args: a ResNet's name, empty for r18x0.25."""
    c = recipe(resnet(arch or "r18x0.25", 32, "cifar"), 256, strength=0.5, blur=0.0)
    c.method.temperature = 0.5
    c.method.head.embed_dim = 64
    c.method.augment.crop_scale = (0.2, 1.0)
    c.steps = 300
    c.optim.lr, c.optim.weight_decay = 1e-3, 1e-4
    c.optim.b2, c.optim.eps = 0.999, 1e-8
    c.optim.warmup_steps = 20
    c.data.path = "builtin:emoji/noto-train"
    c.data.image.crop = c.data.image.eval_crop = "squash"
    test = dict(train=c.data.path, path="builtin:emoji/noto-test", label="category")
    for name in ("knn", "probe"):
        c.evals[name] = {"type": name, **test}
    c.evals.neighbours = {"type": "neighbours", "path": own_pictures(c, test["path"])}
    c.log_every = 20
    return c

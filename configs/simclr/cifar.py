"""SimCLR on CIFAR-10: 3x3 stem, strength 0.5, no blur, temperature 0.5 (arXiv:2002.05709 section
B.9).

python -m vlp_jax train --config=configs/simclr/cifar.py:r18x1 --workdir=W

The file exists as the published recipe for small pictures; argument: a ResNet's name.
"""

from ml_collections import ConfigDict

from configs.common import own_pictures
from configs.simclr.common import lars, recipe, resnet


def get_config(arch: str = "") -> ConfigDict:
    """Args: r50x1 of the paper, which is the default, or r18x1 of the code's example."""
    c = recipe(resnet(arch or "r50x1", 32, "cifar"), 512, strength=0.5, blur=0.0)
    c.method.temperature = 0.5
    lars(c, "cifar", weight_decay=1e-4)
    c.epochs = 1000.0
    c.data.path = "tfds:cifar10:train"
    c.evals.knn = {"type": "knn", "train": c.data.path, "path": "tfds:cifar10:test"}
    c.evals.knn.label = "label"
    c.evals.neighbours = {"type": "neighbours", "path": own_pictures(c, c.evals.knn.path)}
    return c

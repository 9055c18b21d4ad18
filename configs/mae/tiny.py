"""MAE in minutes on two cores: emoji at 32 pixels, or Fashion-MNIST at 28 (mae.md 8).

python -m vlp_jax train --config=configs/mae/tiny.py --workdir=runs/mae
python -m vlp_jax train --config=configs/mae/tiny.py:DIR --workdir=runs/mae_fashion

The file exists as the recipe of the small studies; argument: a folder from `data prepare
fashion_mnist`, or empty for the embedded emoji.
"""

from ml_collections import ConfigDict

from configs.common import own_pictures
from configs.mae.pretrain import recipe
from vlp_jax.models.archs.mae import mae_tower


def get_config(folder: str = "") -> ConfigDict:
    """Args: folder of Fashion-MNIST."""
    size, layers, width, head = (28, 4, 96, 24) if folder else (32, 6, 128, 32)
    decoder = dict(num_layers=2, width=64, num_heads=4)
    c = recipe({"image": mae_tower(size, 4, layers, width, head), "decoder": decoder})
    c.method.unroll = True
    c.method.image_mean = c.method.image_std = (0.5, 0.5, 0.5)
    c.batch_size = 128
    c.optim.lr = 1e-3
    if folder:
        c.epochs, c.optim.warmup_epochs = 10.0, 0.5
        train, test = (f"{folder}/fashion_mnist-{part}-*.tar" for part in ("train", "test"))
        c.method.augment.flip = 0.0
    else:
        c.epochs, c.optim.warmup_epochs = 40.0, 2.0
        train, test = "builtin:emoji/noto-train", "builtin:emoji/noto-test"
    c.data.path = train
    c.data.image.crop = "squash"
    c.data.image.eval_crop = "squash"
    label = "label" if folder else "category"
    c.evals.knn = {"type": "knn", "label": label, "train": train, "path": test}
    c.evals.reconstruction = {"type": "reconstruction", "path": own_pictures(c, test)}
    c.log_every, c.checkpoint_every = 50, 1000
    return c

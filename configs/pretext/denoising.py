"""Denoising autoencoder (JMLR 11, 2010): masked pixels put back.

python -m vlp_jax train --config=configs/pretext/denoising.py:tiny --workdir=runs/denoising

A ViT-B/16 trunk; `:tiny` runs on the embedded emoji, and
`--config.method.corruption=gaussian|salt_and_pepper` changes the damage. The file exists as the
recipe of methods/denoising.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, trunk, whole_map


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, `resnet50`, or empty for ViT-B/16."""
    tiny = size == "tiny"
    image = trunk(size, 64 if tiny else 224)
    own = dict(corruption="masking", amount=0.25, loss_name="cross_entropy", alpha=1.0, beta=1.0)
    c = recipe("denoising", whole_map(image), tiny, **own)
    show_task(c, "psnr", ("input", "answer", "target"))
    if not tiny:
        c.epochs, c.batch_size = 100.0, 256
        c.optim.lr, c.optim.warmup_epochs = 1e-3, 5.0
    return c

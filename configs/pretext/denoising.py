"""Denoising autoencoder (JMLR 11, 2010): masked pixels put back.

python -m vlp_jax train --config=configs/pretext/denoising.py:tiny --workdir=runs/denoising

A ViT-B/16 trunk; `:tiny` runs on the embedded emoji, and
`--config.method.corruption=gaussian|salt_and_pepper` changes the damage. The file exists as the
recipe of methods/denoising.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, vit


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, or empty for the full size."""
    tiny = size == "tiny"
    image = vit(64, 8, 128, 4) if tiny else vit(224, 16, 768, 12)
    own = dict(corruption="masking", amount=0.25, loss_name="cross_entropy", alpha=1.0, beta=1.0)
    c = recipe("denoising", {**image, "pool": "none"}, tiny, **own)
    show_task(c, "psnr", ("input", "answer", "target"))
    if not tiny:
        c.epochs, c.batch_size = 100.0, 256
        c.optim.lr, c.optim.warmup_epochs = 1e-3, 5.0
    return c

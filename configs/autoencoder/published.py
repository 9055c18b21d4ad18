"""The autoencoders of latent diffusion as published (arXiv:2112.10752 Table 8; CompVis/
latent-diffusion configs/autoencoder and models/first_stage_models): OpenImages at 256 pixels.

python -m vlp_jax convert FOLDER/vgg16-397923af.pth LPIPS
python -m vlp_jax train --config=configs/autoencoder/published.py:kl-f8 --workdir=W \\
    --config.init_from.lpips=LPIPS:image --config.data.path='DIR/*.tar'

Adam at 4.5e-6 x batch: with a Gaussian posterior 192, there 12 pictures on each of 8 devices and
two micro-batches (--config.accumulate=2 --config.accumulate_batchnorm=micro saves that memory here
too), with a codebook 64, 8 on each of 8. The critic starts late, by the table of ldm.md 2.1. The
lengths lie in the published ranges of 177k to 443k and 533k to 1.6M steps. `:sd-vae-ft-mse` goes on
from kl-f8: the decoder alone, 0.1 LPIPS beside the mean square, no critic. The file exists as the
reference recipe; argument: a size of models/archs/autoencoder.py.
"""

from ml_collections import ConfigDict

from configs.autoencoder.common import recipe
from vlp_jax.models.archs.autoencoder import autoencoder

BASE_LR = 4.5e-6
CRITICS = {  # first step, weight, layers
    "vq-f4": (0, 0.75, 3),
    "vq-f4-noattn": (11, 0.75, 3),
    "vq-f8": (1, 0.6, 2),
    "vq-f8-n256": (250_001, 0.75, 3),
    "vq-f16": (250_001, 0.75, 2),
}
KL_CRITIC = (50_001, 0.5, 3)
DECODER_ONLY = "sd-vae-ft-mse"


def get_config(size: str = "kl-f8") -> ConfigDict:
    """Args: size."""
    tuned, size = size == DECODER_ONLY, "kl-f8" if size in ("", DECODER_ONLY) else size
    net, codes = autoencoder(size), size.startswith("vq")
    start, weight, layers = CRITICS.get(size, KL_CRITIC)
    own = dict(critic_start=start, critic_weight=weight, critic={"layers": layers})
    c = recipe(net, 256, BASE_LR, 64 if codes else 192, perceptual={"name": "lpips"}, **own)
    c.steps = 600_000 if codes else 400_000
    c.method.dtype = "bfloat16"
    c.sharding = "fsdp"
    if tuned:
        _decoder_only(c)
    c.data.image.scale = (0.44, 1.0)  # 256 of 384 pixels and more
    c.data.workers = 16
    c.checkpoint_every, c.log_every = 5000, 100
    return c


def _decoder_only(c: ConfigDict) -> None:
    """Stability's card of sd-vae-ft-mse: batch 192, 280,000 steps after those of -ema; its rate is
    not told, the first stage's is taken.
    """
    c.method.error, c.method.perceptual_weight, c.method.critic_weight = "l2", 0.1, 0.0
    c.freeze = (r"autoencoder/(encoder|quant_conv)/.*",)
    c.steps, c.ema_decay = 280_000, 0.9999

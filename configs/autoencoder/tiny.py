"""An autoencoder in 20 minutes of two cores: the embedded emoji at 32 pixels, latents of 8 x 8 x 4
(ldm.md 9).

python -m vlp_jax train --config=configs/autoencoder/tiny.py[:RUN] --workdir=W

RUN: a finished run of configs/autoencoder/features.py, whose features stand in for LPIPS; without
one likeness does not count. The critic starts at three quarters. Measured is the other drawing
style, which is never trained on. The file exists as the laptop's form of published.py.
"""

from ml_collections import ConfigDict

from configs.autoencoder.common import judge_by, recipe

TINY = dict(name="autoencoder", latent_channels=4, widths=(32, 64, 64), res_blocks=1, groups=8)

# Without these the other style comes back worse by 5 dB.
OTHERS = dict(hue=0.5, saturation=0.8, contrast=0.8, brightness=0.2, crop_scale=(0.4, 1.0))


def get_config(workdir: str = "") -> ConfigDict:
    """Args: a finished run of a classifier, or empty."""
    critic = dict(width=32, layers=2)
    c = recipe(TINY, 32, 1e-3 / 16, 16, critic=critic, critic_start=4000)
    c.method.augment.update(OTHERS)
    c.method.critic_weight = 0.2
    c.method.perceptual_weight = 0.1  # its features are no LPIPS's: at 1 pixels count for little
    if workdir:
        judge_by(c, workdir)
    c.data.path = "builtin:emoji/noto-train"
    c.data.image.crop = c.data.image.eval_crop = "squash"
    c.steps = 5000
    c.optim.schedule, c.optim.lr_final, c.optim.warmup_steps = "cosine", 0.05, 50
    other = "builtin:emoji/twemoji-test"
    c.evals.fidelity = {"type": "fidelity", "path": other}
    c.log_every, c.checkpoint_every = 50, 500
    return c

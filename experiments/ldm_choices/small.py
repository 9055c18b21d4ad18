"""The recipes of the study: a classifier and a CLIP that judge, autoencoders of four factors, and
short U-Nets on their latents.

The file exists as their list; argument: STAGE,CELLS,SEED, where the earlier stages lie in CELLS.
"""

from ml_collections import ConfigDict

from configs.autoencoder import tiny as coder
from configs.clip import quickstart
from configs.latent_diffusion import tiny
from experiments.ldm_tiny.concepts import CONCEPTS, TRAIN
from experiments.ldm_tiny.small import classifier

WIDTHS = {1: (32,), 2: (32, 64), 4: (32, 64, 64), 8: (32, 64, 64, 64)}
CHANNELS = {1: 3, 2: 3, 4: 4, 8: 16}
STEPS = {1: 26, 2: 80, 4: 300, 8: 820}  # of equally many FLOPs in the U-Net
CODER_STEPS = {1: 200, 2: 500, 4: 700, 8: 700}
ROWS = {
    "v": {"schedule.prediction": "v"},
    "min-SNR": {"min_snr": 5.0},
    "zero SNR": {"schedule.prediction": "v", "schedule.zero_snr": True},
}


def get_config(words: str = "f4,runs/ldm_choices/cells,0") -> ConfigDict:
    """Args: STAGE,CELLS,SEED; STAGE is classifier, clip, coderF or fF, F being 1, 2, 4 or 8."""
    stage, cells, seed = words.rsplit(",", 2)
    if stage == "classifier":
        return classifier()
    if stage == "clip":
        c = quickstart.get_config(TRAIN)
        c.data.tokenizer = f"{CONCEPTS}/vocab.txt"
        c.method.text.vocab_size = tiny.VOCABULARY
        c.steps, c.optim.warmup_steps = 300, 30
        return c
    kind, factor = stage.rstrip("1248"), int(stage[-1])
    sizes = dict(widths=WIDTHS[factor], latent_channels=CHANNELS[factor])
    if kind == "coder":
        c = coder.get_config()
        c.method.autoencoder.update(sizes)
        c.method.augment.update(dict(hue=0.0, saturation=0.0, contrast=0.0, brightness=0.0))
        c.method.augment.crop_scale, c.data.path = (1.0, 1.0), TRAIN  # they code scenes alone
        c.method.critic_weight, c.steps = 0.0, CODER_STEPS[factor]
        return c
    c = tiny.get_config(f"{CONCEPTS}")
    c.method.autoencoder.update(sizes)
    if factor == 1:
        c.method.unet.depths = (0, 1)  # no place looks at all pixels, as in the paper
    c.method.unet.in_channels = c.method.unet.out_channels = CHANNELS[factor]
    parts = ("autoencoder", "latent_scale")
    with c.ignore_type():
        c.init_from = ConfigDict({p: f"{cells}/coder{factor}/seed{seed}:{p}" for p in parts})
    c.steps, c.optim.warmup_steps, c.ema_decay = STEPS[factor], STEPS[factor] // 10, 0.99
    c.optim.lr = 1e-3
    c.keep_checkpoints = 1
    return c

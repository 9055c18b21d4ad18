"""The same stages at 96 pixels, latents of 24 x 24 x 4: 205 PFLOP, three hours at 20 TFLOP/s.

The file exists as the longer recipe beside small.py, with its argument.
"""

from ml_collections import ConfigDict

from experiments.ldm_tiny import small

SIDE = 96
CODER = dict(widths=(64, 128, 128), res_blocks=2)
UNET = dict(widths=(128, 256, 256), depths=(1, 1, 1), heads=(4, 8, 8), res_blocks=2, groups=32)
STEPS = {"autoencoder": 20_000, "unet": 40_000, "inpainting": 10_000, "control": 10_000}


def get_config(words: str = "unet,runs/ldm_tiny_full/cells,0") -> ConfigDict:
    """Args: STAGE,CELLS,SEED; see small.py."""
    c, stage = small.get_config(words), words.split(",")[0]
    if stage == "classifier":
        return c  # of 32 pixels: it judges what is drawn in either form
    c.image_size = SIDE
    c.method.autoencoder.update(CODER)
    c.steps = STEPS.get(stage, c.steps)
    if stage == "autoencoder":
        c.method.critic_start = c.steps * 3 // 4
        c.method.critic.layers = 3
        return c
    c.method.unet.update(UNET)
    c.optim.lr = min(c.optim.lr, 1e-4) if stage != "lora" else c.optim.lr
    if stage == "control":
        c.method.control.hint_widths = (16, 32, 96)
    return c

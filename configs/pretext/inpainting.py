"""Context encoder (arXiv:1604.07379): the middle of the picture painted from its surroundings.

python -m vlp_jax train --config=configs/pretext/inpainting.py:tiny --workdir=runs/inpainting

The hole is half the side, squared error 0.999, adversarial term 0.001, the critic at a tenth of the
painter's learning rate, as published, with a ViT-B/16 trunk; `:tiny` runs on the embedded emoji.
The file exists as the recipe of methods/inpainting.py.
"""

from ml_collections import ConfigDict

from configs.pretext.common import recipe, show_task, trunk, whole_map


def get_config(size: str = "") -> ConfigDict:
    """Args: `tiny`, `resnet50`, or empty for ViT-B/16."""
    tiny = size == "tiny"
    image = trunk(size, 64 if tiny else 128)
    widths = {"tiny": (64, 32), "resnet50": (512, 256, 128, 64)}
    own = dict(hole=32 if tiny else 64, place="center", overlap=2 if tiny else 4)
    own |= dict(widths=widths.get(size, (512, 256, 128)), adversarial=0.001)
    own |= dict(critic_widths=(16, 32, 64) if tiny else (64, 128, 256, 512))
    c = recipe("inpainting", whole_map(image), tiny, **own)
    c.optim.clip_norm = 0.0  # one norm would couple the players
    c.optim.b1, c.optim.weight_decay = 0.5, 0.0
    c.optim.lr_groups = ((r"critic/.*", 0.1),)
    show_task(c, "psnr", ("input", "painted", "target"))
    if not tiny:
        c.epochs, c.batch_size = 100.0, 64
        c.optim.lr, c.optim.b2, c.optim.warmup_epochs = 2e-3, 0.999, 1.0
    return c

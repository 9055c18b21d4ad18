"""What the recipes of SimCLR share: ResNet names, the augmentation by strength, LARS and how its
learning rate scales.

The file exists so that each recipe states its published numbers only.
"""

import re

from ml_collections import ConfigDict

from configs import common
from vlp_jax.core.errors import UserError

LR_RULES = {  # of the batch; the first two give 4.8 at 4096 (arXiv:2002.05709 section B.1)
    "sqrt": lambda size: 0.075 * size**0.5,
    "linear": lambda size: 0.3 * size / 256,
    "cifar": lambda size: 1.0 * size / 256,
    "finetune": lambda size: 0.005 * size**0.5,  # SimCLRv2 with few labels
}


def resnet(name: str, image_size: int, stem: str = "imagenet") -> dict:
    """The tower `rDEPTHxWIDTH` or `rDEPTHxWIDTH+sk` (selective kernels): r50x1, r152x3+sk.

    Raises:
      UserError: a name of another form.
    """
    found = re.fullmatch(r"r(\d+)x(\d+(?:\.\d+)?)(\+sk)?", name)
    if not found:
        raise UserError(f"arch: {name!r} is not of the form r50x1, r50x2 or r152x3+sk")
    depth, width, kernels = found.groups()
    sizes = dict(depth=int(depth), width_multiplier=float(width), stem=stem)
    return dict(name="resnet_v1", image_size=image_size, **sizes, sk_ratio=0.0625 * bool(kernels))


def recipe(image: dict, batch_size: int, strength: float, blur: float) -> ConfigDict:
    """The config of SimCLR on a tower.

    Args:
      image: tower config.
      batch_size: pictures; set before the learning rate, which may follow it.
      strength: of the colour changes; 1 on ImageNet, 0.5 on CIFAR.
      blur: probability; 0.5 on ImageNet, 0 on CIFAR.
    """
    c = common.base()
    head = {"mode": "nonlinear", "num_layers": 3, "embed_dim": 128, "batch_norm": True}
    own = {"head": head, "temperature": 0.1, "loss_scale": "sum"}
    own |= {"augment_branches": 2, "ft_proj_selector": 0, "canvas": 0}
    c.method = common.trunk_method("simclr", {"image": image, **own})
    c.batch_size = batch_size
    c.image_size = image["image_size"]
    c.method.image.image_size = c.get_ref("image_size")
    augment = c.method.augment
    augment.crop_scale, augment.crop_attempts, augment.flip = (0.08, 1.0), 10, 0.5
    augment.brightness = augment.contrast = augment.saturation = 0.8 * strength
    augment.hue, augment.jitter, augment.grey = 0.2 * strength, 0.8, 0.2
    augment.blur = blur
    c.data.image.crop = "center"  # every further crop is made on the device, two per picture
    c.optim.clip_norm = 0.0
    return c


def lars(c: ConfigDict, rule: str, weight_decay: float) -> None:
    """LARS as in the official code, its rate following batch_size by `rule`; 10 epochs of
    warm-up. Gains and biases are neither decayed nor adapted.
    """
    c.optim.name, c.optim.momentum, c.optim.lr_in_momentum = "lars", 0.9, True
    c.optim.lr = LR_RULES[rule](c.get_ref("batch_size").to_float())
    c.optim.weight_decay = weight_decay
    c.optim.warmup_epochs = 10.0

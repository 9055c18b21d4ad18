"""What BLIP's recipes share: the published optimiser, pictures and texts (blip.md 2.6 and 4;
reference: salesforce/BLIP).

The file exists so that each recipe states its task only.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from vlp_jax.augment.rand_augment import RandAugment
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.models.archs.blip import VISION, blip_towers

# Of the reference's ten, brightness and sharpness have factor 1 at magnitude 5 of 10.
OPS = (*["identity"] * 3, "auto_contrast", "equalize", "rotation")
OPS += ("shear_x", "shear_y", "translate_x", "translate_y")


def recipe(towers: dict, name: str = "blip") -> ConfigDict:
    """A method on these towers with the published numbers; every weight decays, and the rate falls
    by epochs."""
    c = common.base()
    c.method = common.clip_method(name, towers)
    c.method.image.head_width = towers["image"].get("head_width", 64)
    c.image_size = c.method.image.image_size
    c.method.image.image_size = c.get_ref("image_size")
    c.method.text.dropout = 0.1
    c.method.augment.flip = 0.5
    c.method.augment.crop_scale = (0.5, 1.0)
    c.method.rand_augment = ConfigDict(dataclasses.asdict(RandAugment()))
    random = c.method.rand_augment
    random.num_ops, random.magnitude, random.std, random.ops = 2, 5.0, 0.0, OPS
    random.translate = c.get_ref("image_size").to_float() ** -1 * 10  # pixels
    c.data.image.crop = c.data.image.eval_crop = "squash"
    c.data.tokenizer_options.clean = "blip"
    c.data.tokenizer = "bert-base-uncased/vocab.txt"
    c.optim.weight_decay, c.optim.no_decay = 0.05, ()
    c.optim.b2, c.optim.eps, c.optim.clip_norm = 0.999, 1e-8, 0.0
    c.optim.lr_by_epoch = True
    return c


def texts(c: ConfigDict, length: int) -> None:
    """Texts of so many tokens."""
    c.data.context_length = length
    c.method.text_length = c.data.get_ref("context_length")
    c.data.buckets = ()


def published(size: str, image_size: int, **text: str | int) -> dict:
    """Towers of `base` or `large`; the reference's ViT-L always has stochastic depth.

    Raises:
      UserError: another size.
    """
    size = size or "base"
    if size not in VISION:
        raise UserError(f"configs/blip: unknown size {size!r}{nearest(size, VISION)}")
    towers = blip_towers(size, image_size, **text)
    towers["image"]["drop_path"] = 0.1 if size == "large" else 0.0
    return towers

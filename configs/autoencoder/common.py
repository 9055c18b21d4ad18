"""What the recipes of autoencoders share: the method's section, Adam (0.5, 0.9) and its rate.

The file exists so that each recipe states its sizes and numbers only.
"""

import dataclasses
import json
from pathlib import Path

from ml_collections import ConfigDict

from configs import common
from vlp_jax.augment.pictures import Augment
from vlp_jax.core.errors import UserError


def recipe(net: dict, image_size: int, base_lr: float, batch_size: int, **own) -> ConfigDict:
    """The config of `autoencoder` on a network (models/archs/autoencoder.py).

    Args:
      base_lr: the rate of both players over the batch size, which it follows; constant.
      **own: the method's.
    """
    c = common.base()
    critic = {**common.defaults("patch_critic"), **own.pop("critic", {})}
    perceptual = own.pop("perceptual", {})
    c.method = ConfigDict(
        dict(
            name="autoencoder",
            autoencoder={**common.defaults("autoencoder"), **net},
            augment=dataclasses.asdict(Augment()),
            error="l1",
            perceptual=perceptual,
            perceptual_weight=1.0,
            kl_weight=1e-6,
            codebook_weight=1.0,
            critic=critic,
            critic_start=0,
            critic_weight=0.5,
            dtype="float32",
            remat="none",
        )
        | own
    )
    c.image_size = image_size
    c.method.image_size = c.get_ref("image_size")
    c.method.augment.flip = 0.5
    c.batch_size = batch_size
    c.optim.lr = c.get_ref("batch_size").to_float() * base_lr
    c.optim.schedule = "constant"
    c.optim.b1, c.optim.b2, c.optim.eps = 0.5, 0.9, 1e-8
    c.optim.weight_decay = c.optim.clip_norm = 0.0
    return c


def judge_by(c: ConfigDict, workdir: str) -> None:
    """Compares pictures by the features of a finished run of a tower (classify) in place of LPIPS.

    Raises:
      UserError: no finished run of one.
    """
    file = Path(workdir) / "config.json"
    image = json.loads(file.read_text())["method"].get("image") if file.is_file() else None
    if not image:
        raise UserError(f"{workdir}: no training workdir of an image tower (config.json)")
    c.method.perceptual = ConfigDict(image)
    with c.ignore_type():
        c.init_from = ConfigDict({"features": f"{workdir}:image"})

"""What the classification recipes share: towers, labelled data, augmentation, the start from a run.

The file exists so that each recipe states its published numbers only.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from configs import common
from vlp_jax.core.errors import UserError
from vlp_jax.methods.base import make_method

NO_DECAY = r"(.*/)?(bias|scale|cls_token|pos_embed)"


def recipe(image: dict, num_classes: int, **fields) -> ConfigDict:
    """The config of `classify` on a tower; the evaluator `test` follows data.path and data.label.

    Args:
      image: tower config.
      **fields: the method's own.
    """
    c = common.base()
    own = {"num_classes": num_classes, "linear": False, "head_norm": "none", "head_init_std": 0.01}
    own |= {"projection": {}, "ft_proj_selector": 0}
    own |= {"label_smoothing": 0.0, "rand_augment": {"magnitude": 0.0, "std": 0.5}}
    own["mixing"] = {"mixup": 0.0, "cutmix": 0.0, "switch": 0.5, "erase": 0.0}
    c.method = common.trunk_method("classify", {"image": image, **own, **fields})
    c.image_size = image["image_size"]
    c.method.image.image_size = c.get_ref("image_size")
    c.method.augment.flip = 0.5
    c.data.label = "label"
    c.optim.no_decay = (NO_DECAY,)
    c.optim.clip_norm = 0.0
    test = {"type": "accuracy", "path": "", "label": c.data.get_oneway_ref("label")}
    c.evals.test = {**test, "train": c.data.get_oneway_ref("path")}
    return c


def imagenet(c: ConfigDict) -> ConfigDict:
    """ImageNet-1k through TFDS, random resized crops of the published range on the host."""
    c.data.path, c.evals.test.path = "tfds:imagenet2012:train", "tfds:imagenet2012:validation"
    c.data.image.scale, c.data.image.eval_crop = (0.08, 1.0), "center_875"
    c.data.workers = 16
    c.method.dtype = "bfloat16"
    c.checkpoint_every = 1000
    return c


def strong(c: ConfigDict) -> None:
    """RandAugment (9, 0.5), smoothing 0.1, mixup 0.8, CutMix 1.0 (MAE, Tables 9 and 11)."""
    c.method.rand_augment = {"magnitude": 9.0, "std": 0.5}
    c.method.label_smoothing = 0.1
    c.method.mixing = {"mixup": 0.8, "cutmix": 1.0, "switch": 0.5, "erase": 0.0}


def start_from(c: ConfigDict, workdir: str, layers: int = 0) -> None:
    """Takes the tower's description and preprocessing from a finished run and its weights as the
    start, and so many layers of SimCLR's head; the classifier stays fresh. A tower that hands on
    all its tokens gives their mean.

    Raises:
      UserError: no finished run, or no head to take layers from.
    """
    file = Path(workdir) / "config.json"
    if not file.is_file():
        raise UserError(f"{workdir}: no training workdir (it has no config.json)")
    found = json.loads(file.read_text())
    method = found["method"]
    c.image_size = method["image"]["image_size"]
    c.method.image = ConfigDict(method["image"])
    c.method.image.image_size = c.get_ref("image_size")
    if method["image"].get("pool") == "none":
        c.method.image.pool = "gap"
    pictures = make_method(method)
    c.method.unlock()
    c.method.image_mean, c.method.image_std = pictures.image_mean, pictures.image_std
    c.data.image.crop = found["data"]["image"]["crop"]
    c.data.image.eval_crop = found["data"]["image"]["eval_crop"]
    c.init_from = f"{workdir}:(batch_stats/)?image/.*"
    if layers:
        if method["name"] != "simclr":
            raise UserError(f"{workdir}: a run of {method['name']!r}, which has no projection head")
        c.method.projection, c.method.ft_proj_selector = ConfigDict(method["head"]), layers
        numbers = "|".join(str(i + 1) for i in range(layers))
        c.init_from = rf"{workdir}:(batch_stats/)?(image|head/layer({numbers})(_bn)?)/.*"

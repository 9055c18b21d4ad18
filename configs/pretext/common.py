"""What the recipes of the pretext tasks share: a small form on the embedded emoji and a full one.

The file exists so that each recipe states its task and its published numbers only.
"""

from ml_collections import ConfigDict

from configs import common
from vlp_jax.core.errors import UserError, nearest


def vit(image_size: int, patch_size: int, width: int, num_layers: int) -> dict:
    """A ViT tower with mean pooling, whose tokens are the patches alone."""
    return dict(
        name="vit",
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        num_layers=num_layers,
        head_width=32 if width < 384 else 64,
        pool="gap",
        pre_norm=False,
        conv_bias=True,
        norm_eps=1e-6,
        weight_init="xavier",
    )


def trunk(size: str, image_size: int, patch_size: int = 16, tiny_patch: int = 8) -> dict:
    """The tower of a recipe's argument: `tiny`, `resnet50`, or empty for ViT-B.

    Raises:
      UserError: another argument.
    """
    sizes = {
        "": vit(image_size, patch_size, 768, 12),
        "tiny": vit(image_size, tiny_patch, 128, 4),
        "resnet50": dict(name="resnet_v1", image_size=image_size, depth=50),
    }
    if size not in sizes:
        raise UserError(f"--config=...:{size}: unknown size{nearest(size, sizes)}")
    return sizes[size]


def whole_map(image: dict) -> dict:
    """The same tower, handing on every token after its last norm (a ResNet always does)."""
    return {**image, "pool": "none"} if image["name"] == "vit" else image


def recipe(name: str, image: dict, tiny: bool, picture_size: int = 0, **fields) -> ConfigDict:
    """The config of task `name` on the tower `image`.

    Args:
      tiny: minutes on two cores, on the embedded emoji; else data.path is to be given.
      picture_size: of tasks whose tower sees pieces of a picture.
      **fields: the task's own.
    """
    c = common.base()
    c.method = common.trunk_method(name, {"image": image, **fields})
    c.image_size = picture_size or image["image_size"]
    if picture_size:
        c.method.picture_size = c.get_ref("image_size")
    else:
        c.method.image.image_size = c.get_ref("image_size")
    c.method.augment.flip = 0.5
    c.optim.weight_decay = 0.05
    c.log_every, c.checkpoint_every = 50, 1000
    if tiny:
        _tiny(c)
    return c


def _tiny(c: ConfigDict) -> None:
    c.data.path = "builtin:emoji/noto-train"
    c.data.image.crop = "squash"
    c.method.unroll = True
    c.batch_size = 64
    c.steps = 300
    c.optim.lr = 1e-3
    c.optim.warmup_steps = 50
    sets = dict(train=c.data.path, path="builtin:emoji/noto-test")
    c.evals.knn = {"type": "knn", "label": "category", **sets}


def show_task(c: ConfigDict, metric: str, titles: tuple[str, ...]) -> None:
    """Adds the evaluator of the task itself, its score beside chance and the sheet of answers: on
    the emoji's test part, or on data.path where that is one's own.
    """
    task = {"type": "pretext", "metric": metric, "titles": titles}
    c.evals.task = {**task, "path": common.own_pictures(c, "builtin:emoji/noto-test")}

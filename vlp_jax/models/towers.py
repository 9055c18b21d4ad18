"""Builds an image or text tower from its config mapping, by name.

The file exists so that methods choose networks by config and a typo in a tower's config is one
clear line.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import build, plain
from vlp_jax.models.resnet import ModifiedResNet
from vlp_jax.models.resnet_v1 import ResNet
from vlp_jax.models.text import TextTransformer
from vlp_jax.models.vit import ViT

TOWERS: dict[str, type[nn.Module]] = {
    "vit": ViT,
    "resnet": ModifiedResNet,
    "resnet_v1": ResNet,
    "text": TextTransformer,
}


def make_tower(config: Mapping[str, Any], where: str, **fields: Any) -> nn.Module:
    """Builds the tower `config["name"]`.

    Args:
      config: `name` and the fields of that module; `project=False` leaves its embedding
        unprojected.
      where: config path for error messages, e.g. `method.image`.
      **fields: defaults that the config may override (embed_dim, dtype, ...); those the module
        lacks are dropped.

    Raises:
      UserError: unknown tower or field.
    """
    config = plain(config)
    name = config.pop("name", None)
    if name not in TOWERS:
        raise UserError(f"{where}.name: unknown {name!r}{nearest(str(name), TOWERS)}")
    if not config.pop("project", True):
        fields["embed_dim"] = 0
    known = TOWERS[name].__dataclass_fields__
    defaults = {key: value for key, value in fields.items() if key in known}
    return build(TOWERS[name], {**defaults, **config}, where)

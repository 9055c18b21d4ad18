"""Builds an image or text tower from its config mapping, by name.

A network's name is that of its file, models/NAME.py, which holds one public module. The file exists
so that methods choose networks by config and a typo in a tower's config is one clear line.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import build, plain


def network(name: str, flag: str) -> type[nn.Module]:
    """The class of models/NAME.py.

    Raises:
      UserError: no such file, or none with one public module; the message names `flag`.
    """
    module = dispatch.load("models", name, flag)
    own = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    if len(own) != 1:
        raise UserError(f"{flag}: {name!r} is no network (models/{name}.py has {len(own)})")
    return own[0]


def name_of(net: nn.Module) -> str:
    """The name under which `network` finds the class of `net`."""
    return type(net).__module__.rpartition(".")[2]


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
    kind = network(str(config.pop("name", None)), f"{where}.name")
    if not config.pop("project", True):
        fields["embed_dim"] = 0
    known = kind.__dataclass_fields__
    defaults = {key: value for key, value in fields.items() if key in known}
    return build(kind, {**defaults, **config}, where)

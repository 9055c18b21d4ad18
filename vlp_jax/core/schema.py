"""Builds frozen dataclasses from config mappings; the fields are the schema and a typo is an error.

The file exists so that methods, networks and evaluators refuse an unknown config key in one voice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from vlp_jax.core.errors import UserError, nearest

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Turns ConfigDicts and lists into hashable-friendly dicts and tuples, recursively."""
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    return value


def build(cls: type[T], config: Mapping[str, Any], where: str) -> T:
    """Builds `cls` from a mapping.

    Raises:
      UserError: a key that is no field of `cls`, or a field without default that is missing; names
        `where.key`.
    """
    valid = {f.name for f in dataclasses.fields(cls) if f.init and f.name not in ("parent",)}
    values = {key: value for key, value in plain(config).items()}
    for key in values:
        if key not in valid:
            raise UserError(f"{where}.{key}: unknown key{nearest(key, valid - {'name'})}")
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error

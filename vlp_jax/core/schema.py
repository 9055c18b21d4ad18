"""Builds frozen dataclasses from config mappings; the fields are the schema and a typo is an error.

The file exists so that methods, networks, evaluators and options refuse an unknown config key or a
value of another type in one voice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_origin

import numpy as np

from vlp_jax.core.errors import UserError, nearest

T = TypeVar("T")
PLAIN = (bool, int, float, str, tuple)  # types of fields that are checked


def plain(value: Any) -> Any:
    """Turns ConfigDicts and lists into hashable-friendly dicts and tuples, recursively."""
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    return value


def build(cls: type[T], config: Mapping[str, Any], where: str, **given: Any) -> T:
    """Builds `cls` from a mapping.

    Args:
      given: fields that are no config keys.

    Raises:
      UserError: a key that is no field of `cls`, a value of another type than its field's (a whole
        number becomes a float), or a field without default that is missing; names `where.key`.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    valid = fields.keys() - {"parent", *given}
    values = plain(config)
    for key, value in values.items():
        if key not in valid:
            raise UserError(f"{where}.{key}: unknown key{nearest(key, valid - {'name'})}")
        values[key] = typed(f"{where}.{key}", value, fields[key].type)
    try:
        return cls(**values, **given)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def typed(key: str, value: Any, kind: Any) -> Any:
    """The value as a field of type `kind` holds it; only PLAIN types are checked.

    Raises:
      UserError: a value of another type.
    """
    kind = get_origin(kind) or kind
    value = value.item() if isinstance(value, np.generic) else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole:
        return float(value)
    fits = whole if kind is int else kind not in PLAIN or isinstance(value, kind)
    if not fits:
        raise UserError(f"{key} is {value!r}, it must be of type {kind.__name__}")
    return value

"""Builds frozen dataclasses from config mappings; the fields are the schema and a typo is an error.

The file exists so that methods, networks, evaluators and options refuse an unknown config key, a
value of another type or a number out of range in one voice. A field says its range in its type,
`dropout: Rate = 0.0`, and the class that a mapping is for, `augment: Annotated[Mapping[str, Any],
Augment]`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import numpy as np

from vlp_jax.core.errors import UserError, nearest

T = TypeVar("T")
PLAIN = (bool, int, float, str, tuple, Mapping)  # types of fields that are checked


@dataclasses.dataclass(frozen=True)
class Range:
    """What a finite number may be, both ends included."""

    low: float = -math.inf
    high: float = math.inf

    def check(self, key: str, value: float) -> None:
        """Raises UserError, naming the key, for a number outside or not finite."""
        if self.low <= value <= self.high and math.isfinite(value):
            return
        wanted = f"from {self.low} to {self.high}"
        if math.isinf(value) or self.low == -math.inf:
            wanted = "finite"
        elif self.high == math.inf:
            wanted = f"at least {self.low}"
        raise UserError(f"{key}={value} is out of range; it must be {wanted}")


# A moving average with 1 never moves, and a unit that is always dropped is none.
BELOW_ONE = Range(0, 0.99999)
Size = Annotated[int, Range(1)]  # widths, depths, lengths
Rate = Annotated[float, BELOW_ONE]  # of what is dropped or smoothed
Chance = Annotated[float, Range(0, 1)]
Amount = Annotated[float, Range(0)]


def plain(value: Any) -> Any:
    """Turns ConfigDicts and lists into hashable-friendly dicts and tuples, recursively."""
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    return value


def check(cls: type, config: Mapping[str, Any], where: str) -> None:
    """Holds a mapping, and those within it whose class a field names, against a dataclass.

    Raises:
      UserError: a key that is no field of `cls`, a value of another type than its field's, or a
        number out of its range; names `where.key`.
    """
    valid = {f.name: f.type for f in dataclasses.fields(cls) if f.init and f.name != "parent"}
    for key, value in config.items():
        if key not in valid:
            raise UserError(f"{where}.{key}: unknown key{nearest(key, valid.keys() - {'name'})}")
        typed(f"{where}.{key}", value, valid[key])
        for said in get_args(valid[key])[1:]:
            if isinstance(said, Range) and isinstance(value, int | float):
                said.check(f"{where}.{key}", value)
            elif dataclasses.is_dataclass(said) and isinstance(value, Mapping):
                check(said, value, f"{where}.{key}")


def build(cls: type[T], config: Mapping[str, Any], where: str, **given: Any) -> T:
    """Builds `cls` from a mapping; a whole number becomes a float where the field is one.

    Args:
      given: fields that are no config keys.

    Raises:
      UserError: see `check`; or a field without default is missing.
    """
    values = plain(config)
    for key in given.keys() & values.keys():
        raise UserError(f"{where}.{key}: unknown key")
    check(cls, values, where)
    types = {f.name: f.type for f in dataclasses.fields(cls)}
    values = {key: typed(f"{where}.{key}", value, types[key]) for key, value in values.items()}
    try:
        return cls(**values, **given)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def bare(kind: Any) -> Any:
    """The class of a field's type: float of Annotated[float, ...], tuple of tuple[int, ...]."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_origin(kind) or kind


def typed(key: str, value: Any, kind: Any) -> Any:
    """The value as a field of type `kind` holds it; only PLAIN types are checked.

    Raises:
      UserError: a value of another type.
    """
    kind = bare(kind)
    value = value.item() if isinstance(value, np.generic) else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole:
        return float(value)
    fits = whole if kind is int else kind not in PLAIN or isinstance(value, kind)
    if not fits:
        raise UserError(f"{key} is {value!r}, it must be of type {kind.__name__}")
    return value

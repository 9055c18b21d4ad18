"""Builds frozen dataclasses from config mappings; the fields are the schema and a typo is an error.

The file exists so that methods, networks and evaluators refuse an unknown config key or a number
out of range in one voice. A field says its range in its type, `dropout: Rate = 0.0`, and the class
that a mapping is for, `augment: Annotated[Mapping[str, Any], Augment]`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from vlp_jax.core.errors import UserError, nearest

T = TypeVar("T")


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
      UserError: a key that is no field of `cls`, or a number out of its range; names `where.key`.
    """
    valid = {f.name: f.type for f in dataclasses.fields(cls) if f.init and f.name != "parent"}
    for key, value in config.items():
        if key not in valid:
            raise UserError(f"{where}.{key}: unknown key{nearest(key, valid.keys() - {'name'})}")
        for said in get_args(valid[key])[1:]:
            if isinstance(said, Range) and isinstance(value, int | float):
                said.check(f"{where}.{key}", value)
            elif dataclasses.is_dataclass(said) and isinstance(value, Mapping):
                check(said, value, f"{where}.{key}")


def build(cls: type[T], config: Mapping[str, Any], where: str) -> T:
    """Builds `cls` from a mapping.

    Raises:
      UserError: see `check`; or a field without default is missing.
    """
    values = plain(config)
    check(cls, values, where)
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error

"""Builds frozen dataclasses from config mappings; the fields are the schema and a typo is an error.

The file exists so that methods, networks, evaluators and options refuse an unknown config key, a
value of another type or a number out of range in one voice. A field says its range in its type,
`dropout: Rate = 0.0`, and the class that a mapping is for, `augment: Annotated[Mapping[str, Any],
Augment]`.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

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


def section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The section of a config that the last name of the dotted `where` is; {} where it is empty.

    Raises:
      UserError: something else than a section stands there.
    """
    found = plain(config.get(where.rpartition(".")[2]))
    if found and not isinstance(found, Mapping):
        raise UserError(f"{where} is {found!r}, it must be a section; set {where}.NAME")
    return dict(found or {})


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
        for said in marks(valid[key]):
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


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a field's type allows: (float, NoneType) of Rate | None."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(one for each in get_args(kind) for one in alternatives(each))
    return (kind,)


def marks(kind: Any) -> tuple[Any, ...]:
    """What a field's type says beside it: (Range(1),) of Size."""
    if get_origin(kind) is Annotated:
        return get_args(kind)[1:]
    if get_origin(kind) in (Union, UnionType):
        return tuple(mark for each in get_args(kind) for mark in marks(each))
    return ()


def typed(key: str, value: Any, kind: Any) -> Any:
    """The value as a field of type `kind` holds it; only PLAIN types and Literals are checked.

    Raises:
      UserError: a value of another type.
    """
    value = value.item() if isinstance(value, np.generic) else value
    kinds = alternatives(kind)
    for one in kinds:
        made = _fitted(value, one)
        if made is not NotImplemented:
            return made
    names = [_name(one) for one in kinds if one is not NoneType]
    if get_origin(kinds[0]) is Literal:
        raise UserError(f"{key} is {value!r}{nearest(str(value), get_args(kinds[0]))}")
    raise UserError(f"{key} is {value!r}, it must be of type {' or '.join(names)}")


def _fitted(value: Any, kind: Any) -> Any:
    """The value as one of type `kind`, NotImplemented where it is none."""
    cls = get_origin(kind) or kind
    whole = isinstance(value, int) and not isinstance(value, bool)
    if cls is Literal:
        fits = value in get_args(kind)
    elif cls is float and whole:
        return float(value)
    elif cls is tuple and isinstance(value, tuple) and get_args(kind):
        return _fitted_tuple(value, get_args(kind))
    else:
        plain_type = cls in PLAIN or cls is NoneType
        fits = whole if cls is int else not plain_type or isinstance(value, cls)
    return value if fits else NotImplemented


def _fitted_tuple(value: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
    """`_fitted` of a tuple whose members have these types."""
    kinds = (kinds[0],) * len(value) if kinds[1:] == (...,) else kinds
    if len(kinds) != len(value):
        return NotImplemented
    made = []
    for item, kind in zip(value, kinds, strict=True):
        found = [_fitted(item, one) for one in alternatives(kind)]
        made += [one for one in found if one is not NotImplemented][:1]
    return tuple(made) if len(made) == len(value) else NotImplemented


def _name(kind: Any) -> str:
    cls = get_origin(kind) or kind
    return str(kind) if cls is tuple and get_args(kind) else getattr(cls, "__name__", str(kind))

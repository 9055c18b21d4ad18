"""Options of a function: a frozen dataclass whose float fields a compiled program takes as they
come, and whose other fields, those that may be a word too, are choices that it is compiled for.

The file exists so that one program serves every guidance and every strength.
"""

import dataclasses
from types import NoneType
from typing import TypeVar

import jax

from vlp_jax.core.schema import alternatives

T = TypeVar("T")


def options(cls: type[T]) -> type[T]:
    """Class decorator: `cls` as a frozen dataclass and a pytree whose leaves are its float fields;
    one that is None is a choice of its own.

    Every field needs a default. Checks in `__post_init__` are for fields that are no floats: inside
    a compiled program those are traced.

    Worked example: of `guidance: float = 7.5` and `steps: int = 50`, another guidance runs the same
    program, another number of steps compiles one.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(made)
    kinds = {field.name: set(alternatives(field.type)) for field in fields}
    traced = [name for name, kind in kinds.items() if float in kind <= {float, int, NoneType}]
    static = [field.name for field in fields if field.name not in traced]
    return jax.tree_util.register_dataclass(made, traced, static)

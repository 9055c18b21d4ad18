"""Loads a module of the package by its short name: `load('methods', 'clip')` ->
vlp_jax.methods.clip.

The file exists so that adding a method, an optimiser or an evaluator is adding a file, with no
registry to edit and no import paid for what is not used.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from vlp_jax.core.errors import UserError, nearest

T = TypeVar("T")


def names(folder: str) -> list[str]:
    """Module names in a folder of the package, without `base` and sub-folders."""
    package = importlib.import_module(f"vlp_jax.{folder}")
    found = pkgutil.iter_modules(package.__path__)
    return sorted(m.name for m in found if m.name != "base" and not m.ispkg)


def find(folder: str, name: str, base: type[T], flag: str) -> type[T]:
    """The one class of vlp_jax/FOLDER/NAME.py that is a `base` and is defined there.

    Raises:
      UserError: no such module, or another number of classes.
    """
    module = load(folder, name, flag)
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        one = f"must define one {base.__name__}, found {len(own)}"
        raise UserError(f"{flag}: {folder}/{name}.py {one}")
    return own[0]


def load(folder: str, name: str, flag: str) -> ModuleType:
    """Imports vlp_jax.FOLDER.NAME.

    Raises:
      UserError: no such module; the message names `flag` and the nearest valid name.
    """
    if name not in names(folder):
        raise UserError(f"{flag}: unknown {name!r}{nearest(name, names(folder))}")
    return importlib.import_module(f"vlp_jax.{folder}.{name}")

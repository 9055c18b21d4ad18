"""Class numbers of labelled data: a JSON key's integers as they are, its strings by their rank.

The file exists so that training and evaluation turn the same value into the same class.
"""

from collections.abc import Sequence
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.source import Source, label_value


def class_list(source: Source, key: str, flag: str) -> tuple[str, ...]:
    """The sorted distinct strings under a JSON key of a source; () where its values are integers,
    which are class numbers already (such sets are not read through: they may be large). Part of a
    data set has the classes of the whole, so that training and evaluation number alike.

    Raises:
      UserError, naming the flag: no sample has the key, or there is only one class.
    """
    while hasattr(source, "whole"):
        source = source.whole
    values: set[Any] = set()
    known: set[str] = set()
    for index in range(len(source)):
        try:
            meta = source.metadata(index)["meta"]
        except DamagedSample:
            continue
        known |= meta.keys()
        value = label_value(meta.get(key))
        if isinstance(value, str):
            values.add(value)
        elif isinstance(value, int):
            classes = getattr(source, "classes", ("?", "?"))  # a folder knows its own
            return _several(() if len(classes) > 1 else tuple(classes), key, flag)
    if not values:
        hint = nearest(key, known - {key})
        raise UserError(f"{flag}={key!r}: no sample has a number or a word under this key{hint}")
    return _several(tuple(sorted(values)), key, flag)


def check_classes(source: Source, key: str, flag: str) -> None:
    """Raises UserError, naming the flag, where all samples have the same value under a JSON key;
    evenly spaced ones are looked at first, which nearly always is enough.
    """
    values: set[str | int] = set()
    for index in (*range(0, len(source), len(source) // 64 + 1), *range(len(source))):
        try:
            value = label_value(source.metadata(index)["meta"].get(key))
        except DamagedSample:
            continue
        if isinstance(value, str | int):  # what else there is, the evaluator names
            values.add(value)
        if len(values) > 1:
            return
    _several(tuple(map(str, values)), key, flag)


def _several(classes: tuple[str, ...], key: str, flag: str) -> tuple[str, ...]:
    if len(classes) == 1:
        raise UserError(f"{flag}={key!r}: there is only one class, {classes[0]!r}")
    return classes


def open_classes(
    source: Source, key: str, num_classes: int, flag: str = "data.label", said: str = ""
) -> Sequence[str | int]:
    """The classes that training numbers from 0: the strings of `class_list`, or range(num_classes);
    said: that number, for errors.

    Raises:
      UserError: see `class_list`; or their number is not the model's.
    """
    classes = class_list(source, key, flag)
    count = len(classes or getattr(source, "classes", ()))  # a folder numbers its own
    if count and num_classes != count:
        said = said or f"the method has {num_classes}"
        raise UserError(f"{flag}={key!r} has {count} classes but {said}; make them equal")
    return classes or range(num_classes)

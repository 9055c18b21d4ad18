"""Values of a config.json held against the defaults of its config class.

The file exists so that one of another type, or an impossible one, is a line that names file and
key, before a size is computed of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Range, plain, typed
from vlp_jax.interop.family import Config
from vlp_jax.interop.weights_file import read_json

_PAIRS = ("image_size", "patch_size")  # one number, or two
_FRAME = 3  # [CLS], a token and [SEP]


def class_of(config: Config, known: Sequence[str], where: str) -> str:
    """The class that `architectures` names, the first of the known ones where it is not there.

    Raises:
      UserError: another one, or several.
    """
    said = config.get("architectures") or known[:1]
    kind = said[0] if isinstance(said, list | tuple) and len(said) == 1 else said
    if kind not in known:
        raise UserError(f"{where}: architectures {kind!r} is not read{nearest(str(kind), known)}")
    return kind


def filled(defaults: Config, said: Any, where: str) -> dict[str, Any]:
    """What a config says, filled up by its class.

    Args:
      defaults: {key: value}; a whole number is a size, None one that may be left out; ids are
        checked by who reads them.
      said: the config, which may hold other keys.
      where: the file, or with a colon the section in it.

    Raises:
      UserError: no mapping; a value of another type than the default's, a size below 1, a number
        below 0 or not finite; names `where` and the key.
    """
    if not isinstance(said, Mapping):
        raise UserError(f"{where} is {said!r}, it must be a mapping")
    said = plain(said)
    for key in (key for key in defaults.keys() & said.keys() if not key.endswith("_id")):
        default, value = defaults[key], said[key]
        if default is None and value is None:
            continue
        kind = int if default is None else type(default)
        for one in value if key in _PAIRS and isinstance(value, tuple) else (value,):
            one = typed(f"{where}: {key}", one, kind)
            if kind in (int, float):
                Range(int(kind is int)).check(f"{where}: {key}", one)
    return {**defaults, **said}


def told_length(path: str, key: str, usual: int) -> int:
    """The length of texts that a file beside the weights says under `key`; `usual` without one.

    Raises:
      UserError: no whole number, or too short for any text; names file and key.
    """
    said = read_json(path).get(key)
    if said is None:
        return usual
    whole = int(said) if isinstance(said, float) and said.is_integer() else said  # 1e30: no limit
    Range(_FRAME).check(f"{path}: {key}", typed(f"{path}: {key}", whole, int))
    return whole

"""Config files and their overrides: `--config=FILE.py[:ARGS]` and `--config.KEY=VALUE`.

A config file is Python: `get_config(args: str) -> ConfigDict`, or without an argument. Only the
file that the user typed is run; it may import `configs.common` and what lies beside it. The file
exists so that every command reads configs alike and a misspelt key is refused before anything heavy
is imported.
"""

import ast
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vlp_jax.core.errors import UserError, nearest

FRESH = "fresh:"  # fresh:WORKDIR is the model of a workdir with its first, random weights
LENGTH_UNITS = ("steps", "examples", "epochs")
# Sections whose keys are free: checked later, by what reads them.
OPEN = re.compile(
    r"evals\.[^.]+(\.how)?|data\.(fields|tokenizers)(\.[^.]+)*|init_from|optim\.players\.[^.]+"
)
ROOT = Path(__file__).parents[2]  # where configs/ lies, in a checkout


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of argv. Returns (the rest, {KEY:
    VALUE}).
    """
    rest, overrides, words = [], {}, iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        key, found, value = word[len("--config.") :].partition("=")
        if not found:
            value = next(words, None)
            if value is None:
                raise UserError(f"--config.{key}: needs a value, as in --config.{key}=VALUE")
        overrides[key] = value
    return rest, overrides


def load_config(spec: str, overrides: dict[str, str]) -> ConfigDict:
    """Runs FILE.py[:ARGS] and applies the overrides.

    Returns:
      the locked config, with `config_file` set to `spec`.

    Raises:
      UserError: no such file, no get_config, an unknown key (with the nearest) or a value of
        another type.
    """
    name, _, args = spec.partition(":")
    config = _run_file(_find_file(name), args)
    for key, value in overrides.items():
        override(config, key, value)
        _drop_other_lengths(config, key, overrides)
    config.config_file = spec
    return config.lock()


def _drop_other_lengths(config: ConfigDict, key: str, overrides: dict[str, str]) -> None:
    """A length given on the command line (`steps`, `optim.warmup_epochs`) replaces the file's."""
    stem = next((key.removesuffix(unit) for unit in LENGTH_UNITS if key.endswith(unit)), None)
    if stem not in ("", "optim.warmup_"):
        return
    for unit in LENGTH_UNITS:
        if stem + unit not in overrides:
            override(config, stem + unit, "0")


def _find_file(name: str) -> Path:
    """The file as given, else `configs/...` of this checkout, from whatever folder."""
    path = Path(name).expanduser()
    found = next((p for p in (path, ROOT / path) if p.is_file()), None)
    if found is None:
        folders = (path.parent, ROOT / path.parent, ROOT / "configs")
        files = next(folder for folder in folders if folder.is_dir()).rglob("*.py")
        names = [str(file).removeprefix(f"{ROOT}/") for file in files]
        raise UserError(f"--config={name}: no such file{nearest(str(path), names)}")
    return found


def _add_paths(path: Path) -> None:
    """Config files say `from configs import common`, and those of one's own what lies beside."""
    if (ROOT / "configs").is_dir() and str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # before a folder `configs` of the user's
    root = next((p.parent for p in path.parents if p.name == "configs"), path.parent)
    if str(root) not in sys.path:
        sys.path.append(str(root))


def _get_config(get_config: Callable[..., ConfigDict], args: str) -> ConfigDict:
    """Calls it with the argument, or with none where it needs none and none was given."""
    parameters = inspect.signature(get_config).parameters.values()
    if args and not parameters:
        raise TypeError(f"get_config takes no argument, {args!r} was given")
    needed = any(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    config = get_config(args) if args or needed else get_config()
    if not isinstance(config, ConfigDict):
        raise TypeError(f"get_config returned {type(config).__name__}, no ConfigDict")
    return config


def _run_file(path: Path, args: str) -> ConfigDict:
    _add_paths(path.resolve())
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        return _get_config(module.get_config, args)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={path}: {type(error).__name__}: {error}") from error


def _leaves(config: ConfigDict, prefix: str = "") -> list[str]:
    names = []
    for key in config:
        value = config[key]
        names.append(prefix + key)
        if isinstance(value, ConfigDict):
            names += _leaves(value, f"{prefix}{key}.")
    return names


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets `key` (dotted) from text, parsed as the type that is there.

    Raises:
      UserError: an unknown key, a section, or a value of another type.
    """
    *parents, last = key.split(".")
    if OPEN.fullmatch(".".join(parents)):
        _make_room(config, parents, last, "" if parents == ["init_from"] else _literal(text))
    node: Any = config
    for part in parents:
        node = node.get(part) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or last not in node:
        known = _leaves(config)
        deeper = [name for name in known if name.endswith(f".{key}")]
        raise UserError(f"--config.{key}: unknown key{nearest(key, deeper or known)}")
    old = node[last]
    if isinstance(old, ConfigDict):
        inside = ", ".join(_leaves(old, key + ".")[:8])
        hint = f"set one of {inside}" if inside else f"set keys of it, as {key}.NAME.KEY"
        raise UserError(f"--config.{key}: is a section; {hint}")
    node[last] = _parse(key, text, old)


def _make_room(config: ConfigDict, parents: list[str], last: str, value: Any) -> None:
    """Adds a key to an open section, and the section where there is none yet.

    Raises:
      UserError: a folder of `init_from` for everything leaves no room.
    """
    node = config
    with config.unlocked(), config.ignore_type():
        for part in parents:
            there = node.get(part)
            if there and not isinstance(there, ConfigDict):
                key = ".".join(parents)
                whole = f"{key}={there} gives everything; name prefixes alone"
                raise UserError(f"--config.{key}.{last}: {whole}")
            if not isinstance(there, ConfigDict):
                node[part] = ConfigDict()
            node = node[part]
        node[last] = node.get(last, value)


def _literal(text: str) -> Any:
    """'3' -> 3, "('a',)" -> ('a',), 'true' -> True, anything that is no literal -> itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def switch(flag: str, text: str) -> bool:
    """true, yes, 1 or false, no, 0, in any case.

    Raises:
      UserError: anything else, named by its flag.
    """
    if text.lower() not in ("true", "1", "yes", "false", "0", "no"):
        raise UserError(f"{flag}={text}: must be true or false")
    return text.lower() in ("true", "1", "yes")


def _parse(key: str, text: str, old: Any) -> Any:
    if isinstance(old, str):  # a shell leaves the ~ of --config.data.path=~/x as it is
        return ",".join(map(os.path.expanduser, text.split(",")))
    if isinstance(old, bool):
        return switch(f"--config.{key}", text)
    value = _literal(text)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(old, int) and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e6 steps
    if isinstance(old, tuple):
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if type(value) is not type(old):
        raise UserError(f"--config.{key}={text}: must be of type {type(old).__name__}, as {old!r}")
    return value

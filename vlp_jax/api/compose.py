"""A model of several checkpoints: parts of others beside or in place of its own, and adapters on
its weights.

The file exists so that a ControlNet, another autoencoder or a LoRA is joined to a model when it is
opened, and no method knows where its weights came from.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vlp_jax.api.files import split
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.pytree import flatten
from vlp_jax.core.schema import plain
from vlp_jax.methods.base import STATS, Method, make_method

NAMED = 3  # weights that a line names
Load = Callable[[str], Any]  # a folder -> its Model


def composed(model: Any, parts: Mapping[str, str], load: Load) -> Any:
    """A model with parts of other checkpoints.

    A part that the method has is laid over; one that it lacks is made by the config section of its
    name, as the other checkpoint says it, and counted by the plural where the method has that:
    `control_1` by `control` and `controls`.

    Args:
      model: of load_model. parts: {our part: "FOLDER[:their part]"}.

    Raises:
      UserError: a checkpoint without that part, a method without place for it, or weights of
        another shape.
    """
    taken = {name: _taken(name, text, load) for name, text in parts.items()}
    method, config = model.method, plain(model.config["method"])
    if any(name not in method.parts() for name in taken):
        for name, (other, _) in taken.items():
            config |= _made_by(name, method, other)
        method = make_method(config)
    made = method.parts()
    renamed = {name: name if name in made else f"{name}_0" for name in model.method.parts()}
    trees = [dict(model.params), dict(model.extra.get(STATS, {}))]
    trees = [{renamed.get(name, name): tree for name, tree in own.items()} for own in trees]
    for name, (other, theirs) in taken.items():
        where = f"parts.{name}={parts[name]}"
        if name not in made:
            kind = model.config["method"]["name"]
            raise UserError(f"{where}: method {kind!r} has no such part{nearest(name, made)}")
        for own, tree in zip(trees, (other.params, other.extra.get(STATS, {})), strict=True):
            own.pop(name, None)
            own |= {name: tree[theirs]} if theirs in tree else {}
        _check(where, method, name, *(tree.get(name, {}) for tree in trees))
    params, stats = trees
    extra = dict(model.extra) | ({STATS: stats} if stats else {})
    whole = {**model.config, "method": config}
    return dataclasses.replace(model, method=method, params=params, extra=extra, config=whole)


def _taken(name: str, text: str, load: Load) -> tuple[Any, str]:
    """(another model, the name of the part in it)."""
    folder, theirs = split(text)
    try:
        other = load(folder)
    except UserError as error:
        said = str(error).removeprefix("--checkpoint: ")
        raise UserError(f"parts.{name}={text}: {said}") from error
    known = other.method.parts()
    theirs = theirs or (name if name in known else stem_of(name))
    if theirs not in known:
        raise UserError(f"parts.{name}={text}: holds no part {theirs!r}{nearest(theirs, known)}")
    return other, theirs


def _made_by(name: str, method: Method, other: Any) -> dict[str, Any]:
    """The config fields that make a part which the method lacks."""
    if name in method.parts():
        return {}
    stem, known = stem_of(name), {field.name for field in dataclasses.fields(method)}
    said = plain(other.config["method"])
    found = {stem: said[stem]} if stem in known and stem in said else {}
    if f"{stem}s" in known:
        place = int(name.removeprefix(f"{stem}_")) if name != stem else 0
        own = sum(stem_of(part) == stem for part in method.parts())
        found[f"{stem}s"] = max(own, place + 1)
    return found


def stem_of(name: str) -> str:
    """The name of one of several parts or fields: control_1 -> control."""
    return re.sub(r"_\d+$", "", name)


def _check(where: str, method: Method, name: str, params: Any, stats: Any) -> None:
    """Raises UserError for weights that are not those of the part."""
    part = method.parts()[name]
    made = jax.eval_shape(part.net.init, jax.random.key(0), *part.inputs)
    wanted = {path: leaf.shape for path, leaf in flatten(dict(made)).items()}
    given = {"params": params} | ({STATS: stats} if stats else {})
    found = {path: leaf.shape for path, leaf in flatten(given).items()}
    odd = sorted(path for path in wanted | found if wanted.get(path) != found.get(path))
    if odd:
        said = [f"{p}: {found.get(p, 'absent')}, needs {wanted.get(p, 'none')}" for p in odd]
        more = [f"and {len(odd) - NAMED} more"] if len(odd) > NAMED else []
        raise UserError(f"{where}: does not fit: {'; '.join(said[:NAMED] + more)}")

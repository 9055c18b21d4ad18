"""Writes our tree as files that another library loads: weights and, where it has them, config,
preprocessing and tokenizer beside them.

A config is written, read back as the other library would (interop/families), and the model that
comes of it is compared with ours, switch by switch, before anything is on the disk. The file exists
to hold what `convert --to` decides about its output.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlp_jax.api.export_tokenizer import Files, tokenizer_files
from vlp_jax.api.released import sizes
from vlp_jax.api.switches import computed, described, unlike
from vlp_jax.api.weights import position_tables, tokenized
from vlp_jax.core.errors import RunError, UserError
from vlp_jax.interop.family import Configs, Family, families
from vlp_jax.interop.folder import replace_folder, write_json
from vlp_jax.interop.rules import Table, to_ours, to_theirs
from vlp_jax.interop.weights_file import read_json, write_safetensors
from vlp_jax.methods.base import STATS, Method, make_method

_NO_TOKENIZER = "there is no tokenizer to write; the other library needs one for texts"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is written.

    Attributes:
      family: the library's form.
      table: the names of the weights.
      method: ours.
      arrays: our flat tree, with fixed position tables, which libraries store.
      configs: {file: content}.
      files: a tokenizer's.
      notes: for the user.
    """

    family: Family
    table: Table
    method: Method
    arrays: Mapping[str, np.ndarray]
    configs: Configs
    files: Files
    notes: tuple[str, ...]


def formats() -> tuple[str, ...]:
    """What `--to` can be beside vlp_jax."""
    return tuple(dict.fromkeys(family.to for family in families().values() if family.to))


def check_writable(out: str, to: str, alone: bool = False) -> None:
    """Raises UserError if `out` is in the way; alone: it may be one file whatever `to` is."""
    if out.endswith((".pt", ".pth", ".bin")):
        raise UserError(
            f"{out}: pickled files are not written; give a folder or a .safetensors file"
        )
    alone = alone or any(family.alone for family in families().values() if family.to == to)
    if out.endswith(".safetensors") and not alone:
        raise UserError(f"{out}: --to={to} writes a folder (weights and config.json)")
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise UserError(f"{out}: exists; nothing was written")


def write(
    out: str, to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
) -> list[str]:
    """Writes a folder, or one .safetensors file where that can be loaded alone, whole or not at
    all, and proves what was written.

    Args:
      out: the folder or file.
      to: one of `formats`.
      arrays: our flat tree.
      manifest: {method, preprocessing} and, where there is one, a tokenizer that can be loaded.

    Returns:
      Notes for the user.

    Raises:
      UserError: a method, a switch or a tokenizer that the other library cannot have. RunError: the
        disk.
    """
    plan = _plan(to, arrays, manifest)
    notes, found = list(plan.notes), _unlike(plan, plan.configs)
    _refuse(plan, found)
    if found.get("image.pos_embed") == ("sincos", "learned"):
        notes.append("the fixed positions are written as weights")
    if out.endswith(".safetensors") and plan.configs:
        notes += _alone(out, plan)
    _write(out, plan)
    return notes


def _family(to: str, said: Mapping[str, Any]) -> Family:
    """The family that writes a method in a library's form. Raises UserError: none does."""
    name, known = said["name"], {}
    for family in families().values():
        if family.to == to and family.takes(said):
            return family
        for method in family.methods if family.to else ():
            known.setdefault(method, {})[family.to] = None
    shown = "; ".join(f"{method} to {' or '.join(forms)}" for method, forms in known.items())
    raise UserError(f"--to={to}: method {name!r} cannot be exported so; what can: {shown}")


def _plan(to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> Plan:
    method, pictures = make_method(manifest["method"]), manifest["preprocessing"]
    numbers = {path: float(array) for path, array in arrays.items() if not np.ndim(array)}
    said = described(method)
    family = _family(to, said)
    files, named, own, lacks = _tokenizers(family, method, manifest)
    said |= {"numbers": numbers, "drawing": manifest.get("drawing", {}), "tokenizers": named}
    said["image_token"] = manifest.get("image_token", -1)
    files |= family.files(said)
    inside = tuple(f"{stem}{part}/" for part in family.unwritten for stem in ("", f"{STATS}/"))
    arrays = {path: array for path, array in arrays.items() if not path.startswith(inside)}
    configs = family.configs(said, pictures, own)
    notes = [_NO_TOKENIZER] if lacks else []
    notes += family.notes(said, pictures)
    whole = {**arrays, **position_tables(method)}
    return Plan(family, family.table(whole), method, whole, configs, files, tuple(notes))


def _tokenizers(
    family: Family, method: Method, manifest: Mapping[str, Any]
) -> tuple[Files, dict[str, tuple[str, ...]], dict[str, Any] | None, bool]:
    """(files, {tokenizer: names of its own}, what Family.configs hears of that of `text`, whether
    one lacks)."""
    specs = {"text": manifest.get("tokenizer", {}), **manifest.get("tokenizers", {})}
    files, named, own, lacks = {}, {}, None, False
    for name in tokenized(method):
        how = family.to, family.sees_padding, family.ends_texts(described(method), name)
        found, words, tokenizer = tokenizer_files(specs.get(name, {}), *how)
        folder, lacks = family.tokenizer_folder(name), lacks or not tokenizer
        files |= {os.path.join(folder, file): content for file, content in found.items()}
        named[name] = tuple(found)
        if tokenizer and name == "text":
            image = tokenizer.id_for("<image>")
            own = {"end": tokenizer.eot_id, "image": image, "said": words}
    return files, named, own, lacks


def _rebuilt(plan: Plan, configs: Configs) -> Method:
    """The method that the library builds, with its mean and std."""
    config, pictures = plan.family.rebuilt(configs)
    how = {f"image_{key}": pictures[key] for key in ("mean", "std")} if pictures else {}
    return make_method(config | how)


def _unlike(plan: Plan, configs: Configs) -> dict[str, tuple[Any, Any]]:
    """{key: (ours, what the library would build)} of what changes an embedding."""
    if not configs:
        return {}
    rebuilt = _rebuilt(plan, configs)
    found = unlike(computed(plan.method), computed(rebuilt))
    ours, theirs = described(plan.method), described(rebuilt)
    keys = plan.family.compared if "image" in plan.method.fields() else ()
    return found | {key: (ours[key], theirs[key]) for key in keys if ours[key] != theirs[key]}


def _told(plan: Plan, found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of `_unlike` a config has to say."""
    known = {*plan.family.untold, *plan.family.unwritten}
    return {key: pair for key, pair in found.items() if key not in known}


def _refuse(plan: Plan, found: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises UserError for the switches that the config cannot say, in one line."""
    said = "; ".join(
        f"method.{key}={value!r} (it would build {other!r})"
        for key, (value, other) in _told(plan, found).items()
    )
    if said:
        family = plan.family
        raise UserError(f"--to={family.to}: {family.library}'s config cannot say {said}")


def _alone(out: str, plan: Plan) -> list[str]:
    """What a weights file without its config needs; a model without a name needs the config."""
    own, name = computed(plan.method), described(plan.method)["name"]
    archs = sizes(plan.family.archs).items()
    names = [key for key, arch in archs if computed(make_method({"name": name, **arch})) == own]
    if not names or plan.files:
        raise UserError(f"{out}: a file alone cannot say this model's sizes; give a folder")
    return [f"a file alone: {plan.family.loading(names[0], plan.configs)}"]


def _write(out: str, plan: Plan) -> None:
    """Everything under its name, proven from what was written."""
    state = to_theirs(plan.table, plan.arrays)

    def fill(folder: str) -> None:
        for file, part in plan.family.spread(state).items():
            write_safetensors(_placed(folder, file), part, {"format": "pt"})
        for file, content in plan.configs.items():
            write_json(_placed(folder, file), content)
        for file, content in plan.files.items():
            _write_file(_placed(folder, file), content)
        _prove(folder, plan)

    if out.endswith(".safetensors"):
        _write_alone(out, fill, plan.family.weights_name)
    else:
        replace_folder(out, fill)


def _prove(folder: str, plan: Plan) -> None:
    """Builds what the library would from the files as they are on the disk: every switch must be
    ours, and every weight, bit for bit."""
    written = {name: read_json(os.path.join(folder, name)) for name in plan.configs}
    found = _told(plan, _unlike(plan, written))
    if found:
        raise RunError(f"{folder}: the written config says {found}")
    expected = {name: np.shape(array) for name, array in plan.arrays.items()}
    back = to_ours(plan.table, plan.family.reread(folder), expected, folder)
    for name, array in plan.arrays.items():
        if name in plan.table.unsaid:
            continue
        if name not in back or back[name].tobytes() != np.asarray(array).tobytes():
            raise RunError(f"{folder}: {name} does not survive the way there and back")


def _placed(folder: str, file: str) -> str:
    """The path of a file, its folder made."""
    path = os.path.join(folder, file)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def _write_file(path: str, content: str | bytes) -> None:
    if isinstance(content, str):
        shutil.copyfile(content, path)
        return
    with open(path, "wb") as file:
        file.write(content)


def _write_alone(out: str, fill: Callable[[str], None], name: str) -> None:
    parent = os.path.dirname(os.path.abspath(out))
    try:
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=parent) as folder:
            fill(folder)
            shutil.move(os.path.join(folder, name), out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})") from error

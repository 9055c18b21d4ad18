"""Writes our tree as files that open_clip, transformers or facebookresearch/mae load: weights and,
where they have them, config, preprocessing and tokenizer beside them.

A config is written, read back as the other library would (interop/open_clip_config.py, hf.py,
mae.py), and the model that comes of it is compared with ours, switch by switch, before anything is
on the disk. The file exists to hold what `convert --to` decides about its output.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlp_jax.api.export_tokenizer import Files, tokenizer_files
from vlp_jax.api.switches import computed, tower_fields, unlike
from vlp_jax.api.weights import expected_shapes, position_tables
from vlp_jax.core.errors import RunError, UserError
from vlp_jax.interop import hf, mae, open_clip, open_clip_config, preprocess
from vlp_jax.interop.folder import replace_folder, write_json
from vlp_jax.interop.rules import Family, to_ours, to_theirs
from vlp_jax.interop.weights_file import read_json, read_safetensors, write_safetensors
from vlp_jax.methods.base import Method, make_method
from vlp_jax.models.archs.clip import ARCHS, clip_arch

_NAMES = {
    "open_clip": "open_clip_model.safetensors",
    "hf": "model.safetensors",
    "mae": "model.safetensors",
}
_METHODS = {"clip": ("open_clip", "hf"), "siglip": ("open_clip", "hf"), "mae": ("hf", "mae")}
Configs = Mapping[str, Mapping[str, Any]]  # file -> content
_PICTURES = "preprocessor_config.json"
_CONFIGS = {"open_clip": "open_clip_config.json", "hf": "config.json"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is written.

    Attributes:
      to: open_clip, hf or mae.
      family: the names of the weights.
      method: ours.
      arrays: our flat tree, with fixed position tables where the library stores them.
      configs: {file: content}.
      rebuilds: from `configs` to (method config of what the library builds, its preprocessing);
        None where there is no config.
      files: a tokenizer's.
      notes: for the user.
    """

    to: str
    family: Family
    method: Method
    arrays: Mapping[str, np.ndarray]
    configs: Configs
    rebuilds: Callable[[Mapping[str, Any]], tuple[dict[str, Any], Mapping[str, Any]]] | None
    files: Files = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_writable(out: str, to: str) -> None:
    """Raises UserError if `out` is in the way."""
    if out.endswith((".pt", ".pth", ".bin")):
        raise UserError(
            f"{out}: pickled files are not written; give a folder or a .safetensors file"
        )
    if out.endswith(".safetensors") and to == "hf":
        raise UserError(f"{out}: --to=hf writes a folder (weights and config.json)")
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise UserError(f"{out}: exists; nothing was written")


def write(
    out: str, to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
) -> list[str]:
    """Writes a folder (or one .safetensors file, but for hf), whole or not at all, and proves what
    was written.

    Args:
      out: the folder or file.
      to: open_clip, hf or mae.
      arrays: our flat tree.
      manifest: {method, preprocessing} and, where there is one, a tokenizer that can be loaded.

    Returns:
      Notes for the user.

    Raises:
      UserError: a method, a switch or a tokenizer that the other library cannot have. RunError: the
        disk.
    """
    name = manifest["method"]["name"]
    if to not in _METHODS.get(name, ()):
        known = "; ".join(f"{key} to {' or '.join(formats)}" for key, formats in _METHODS.items())
        raise UserError(f"--to={to}: method {name!r} cannot be exported so; what can: {known}")
    make = _mae_plan if name == "mae" else {"open_clip": _open_clip_plan, "hf": _hf_plan}[to]
    plan = make(to, arrays, manifest)
    if plan.rebuilds:
        _refuse_unlike(plan)
    notes = list(plan.notes)
    if to in ("open_clip", "hf"):
        notes += preprocess.unsaid(manifest["preprocessing"], to)
    if out.endswith(".safetensors"):
        notes += _alone(out, plan, manifest)
    _write(out, plan)
    return notes


def _open_clip_plan(to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> Plan:
    method = make_method(manifest["method"])
    arch, tables = tower_fields(method), position_tables(method)
    files, said, tokenizer = tokenizer_files(manifest.get("tokenizer", {}), to, False)
    model = open_clip_config.write(arch, "logit_bias" in arrays)
    model["text_cfg"] |= said
    content = {
        "model_cfg": model,
        "preprocess_cfg": preprocess.to_open_clip(manifest["preprocessing"]),
    }
    trunk = "timm_model_name" in model["vision_cfg"]
    return Plan(
        to,
        open_clip.family(trunk, "text/head/bias" in arrays),
        method,
        {**arrays, **tables},
        {_CONFIGS[to]: content},
        _open_clip_builds,
        files,
        () if tokenizer else (_NO_TOKENIZER,),
    )


def _open_clip_builds(configs: Configs) -> tuple[dict[str, Any], Mapping[str, Any]]:
    where = _CONFIGS["open_clip"]
    config = configs[where]
    method = open_clip_config.read(config["model_cfg"], where)
    return method, preprocess.from_open_clip(config["preprocess_cfg"], where)


def _transformers_builds(configs: Configs) -> tuple[dict[str, Any], Mapping[str, Any]]:
    where = _CONFIGS["hf"]
    method = hf.method_fields(configs[where], where)
    return method, preprocess.from_hf(configs[_PICTURES], _PICTURES)


def _rebuilt(plan: Plan, configs: Configs) -> Method:
    """The method that the library builds, with its mean and std."""
    config, pictures = plan.rebuilds(configs)
    return make_method(config | {"image_mean": pictures["mean"], "image_std": pictures["std"]})


_NO_TOKENIZER = "there is no tokenizer to write; the other library needs one for texts"


def _hf_plan(to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> Plan:
    method = make_method(manifest["method"])
    arch, tables = tower_fields(method), position_tables(method)
    siglip = arch["image"].get("pool") == "map"
    files, _, tokenizer = tokenizer_files(manifest.get("tokenizer", {}), to, siglip)
    size = method.image_tower.image_size
    if siglip != ("logit_bias" in arrays):
        has = "no logit_bias" if siglip else "a logit_bias"
        kind = "SiglipModel" if siglip else "CLIPModel"
        raise UserError(
            f"--to=hf: {kind} cannot be method.name={method_name(manifest)!r} with {has}"
        )
    content = hf.model_config(arch, siglip, tokenizer.eot_id if tokenizer else None)
    processor = preprocess.to_hf(manifest["preprocessing"], size, siglip)
    return Plan(
        to,
        hf.HF_SIGLIP if siglip else hf.HF_CLIP,
        method,
        {**arrays, **tables},
        {_CONFIGS[to]: content, _PICTURES: processor},
        _transformers_builds,
        files,
        (
            *(() if tokenizer else (_NO_TOKENIZER,)),
            *(("the fixed positions are written as weights",) if tables else ()),
        ),
    )


def method_name(manifest: Mapping[str, Any]) -> str:
    """The method's name in a manifest."""
    return manifest["method"]["name"]


def _mae_plan(to: str, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> Plan:
    """A masked autoencoder with the fixed position tables, as both libraries store them."""
    method, pictures = make_method(manifest["method"]), manifest["preprocessing"]
    arrays = {**arrays, **position_tables(method)}
    if to == "mae":
        mae.check_fits(method, "--to=mae: facebookresearch/mae")
        said = mae.unsaid(method, pictures)
        return Plan(to, mae.OFFICIAL_MAE, method, arrays, {}, None, notes=(said,))
    processor = preprocess.to_hf(pictures, method.image_tower.image_size, siglip=False)
    configs = {
        _CONFIGS[to]: mae.model_config(method),
        _PICTURES: processor | {"image_processor_type": "ViTImageProcessor"},
    }
    return Plan(to, mae.HF_MAE, method, arrays, configs, None)


def _refuse_unlike(plan: Plan) -> None:
    """Raises UserError for the switches that the config cannot say, in one line."""
    found = _unlike(plan, plan.configs)
    if found:
        library = {"open_clip": "open_clip", "hf": "transformers"}[plan.to]
        said = "; ".join(
            f"method.{key}={value!r} (it would build {other!r})"
            for key, (value, other) in found.items()
        )
        raise UserError(f"--to={plan.to}: {library}'s config cannot say {said}")


def _unlike(plan: Plan, configs: Configs) -> dict[str, tuple[Any, Any]]:
    """{key: (ours, what the library would build)} of what changes an embedding."""
    rebuilt = _rebuilt(plan, configs)
    ours, theirs = computed(plan.method), computed(rebuilt)
    found = unlike(ours, theirs)
    if _as_weights(ours, theirs):
        del found["image.pos_embed"]
    for key in ("image_mean", "image_std"):
        own, other = (tuple(getattr(method, key)) for method in (plan.method, rebuilt))
        found |= {key: (own, other)} if own != other else {}
    return found


def _as_weights(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """A fixed table of positions is as well in a library that learns them."""
    return (ours["image"].get("pos_embed"), theirs["image"].get("pos_embed")) == (
        "sincos",
        "learned",
    )


def _alone(out: str, plan: Plan, manifest: Mapping[str, Any]) -> list[str]:
    """What a weights file without its config needs; a model without a name needs the config."""
    if plan.to == "mae":
        return []
    own = computed(plan.method)
    name = method_name(manifest)
    names = [
        known for known in ARCHS if computed(make_method({"name": name, **clip_arch(known)})) == own
    ]
    if not names or plan.files:
        raise UserError(f"{out}: a file alone cannot say this model's sizes; give a folder")
    pictures = plan.configs[_CONFIGS[plan.to]]["preprocess_cfg"]
    return [f"a file alone: open_clip.create_model({names[0]!r}, pretrained=FILE), with {pictures}"]


def _write(out: str, plan: Plan) -> None:
    """Everything under its name, proven from what was written."""
    name, state = _NAMES[plan.to], to_theirs(plan.family, plan.arrays)

    def fill(folder: str) -> None:
        write_safetensors(os.path.join(folder, name), state, {"format": "pt"})
        for file, content in plan.configs.items():
            write_json(os.path.join(folder, file), content)
        for file, content in plan.files.items():
            _write_file(os.path.join(folder, file), content)
        _prove(folder, plan)

    if out.endswith(".safetensors"):
        _write_alone(out, fill, name)
    else:
        replace_folder(out, fill)


def _prove(folder: str, plan: Plan) -> None:
    """Builds what the library would from the files as they are on the disk: every switch must be
    ours, and every weight, bit for bit."""
    path, method = os.path.join(folder, _NAMES[plan.to]), plan.method
    if plan.rebuilds:
        written = {name: read_json(os.path.join(folder, name)) for name in plan.configs}
        method, found = _rebuilt(plan, written), _unlike(plan, written)
        if found:
            raise RunError(f"{folder}: the written config says {found}")
    tables = position_tables(method)
    expected = expected_shapes(method) | {name: table.shape for name, table in tables.items()}
    back = to_ours(plan.family, read_safetensors(path), expected, path)
    for name, array in plan.arrays.items():
        if name not in back or not np.array_equal(back[name], array, equal_nan=True):
            raise RunError(f"{path}: {name} does not survive the way there and back")


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

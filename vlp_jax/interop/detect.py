"""Finds out what a checkpoint is, of the families there are, by its tensors' names.

The file exists so that `convert IN OUT` needs no flag for the input's format.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, no_download
from vlp_jax.interop.family import Beside, Family, families, recognise
from vlp_jax.interop.pipeline import INDEX, is_pipeline, open_pipeline
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.torch_file import is_torchscript, read_archive
from vlp_jax.interop.variants import choose
from vlp_jax.interop.weights_file import read_json, read_safetensors, read_sharded
from vlp_jax.interop.wrapped import unwrap

WEIGHTS = (  # in order of preference: nothing that needs the pickle reader before safetensors
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")
_INDEX = re.compile(r"\.(safetensors|bin)(\.\w+)?\.index(\.\w+)?\.json$")
_FILE = re.compile(r"\.(safetensors|pt|pth|bin|ckpt)$")
_SWITCHES = (  # fields of networks that shapes cannot tell
    "activation", "norm_eps", "head_width", "num_heads", "pool", "cls_token", "pos_embed",
    "pre_norm", "causal",
)  # fmt: skip
_TOKENIZERS = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.model",
    "tokenizer.model",
    "vocab.txt",
)
_WORDS = ("tokenizer_config.json", "special_tokens_map.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A released checkpoint, its weights unread.

    Attributes:
      path: the weights file, for messages.
      family: what it is.
      state: {name: Tensor}, under the names of the family's table.
      beside: the config and the tokenizer beside it.
      preprocessing: what the files say of pictures (interop/preprocess.py); {} without a file.
      notes: what the user should know of how the weights were found.
    """

    path: str
    family: Family
    state: State
    beside: Beside = dataclasses.field(default_factory=Beside)
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """The names of its tensors beside ours."""
        return self.family.table(self.state)

    def method(self) -> dict[str, Any]:
        """What the library builds from the config beside the weights, as config of a method of
        ours: {name, part: {...}}; {} where there is no config or it says no sizes.
        """
        return self.family.method(self.beside.config, self.beside.file or self.path)

    def switches(self) -> dict[str, dict[str, Any]]:
        """{part: {field: value}} of what shapes cannot tell."""
        said = self.method()
        if not said:
            return self.family.switches(self.state, self.beside.config)
        return {
            part: {key: value for key, value in fields.items() if key in _SWITCHES}
            for part, fields in said.items()
            if isinstance(fields, Mapping)
        }


def open_checkpoint(path: str, weights: str = "") -> Checkpoint:
    """Opens a weights file or a folder that holds one; weights: see wrapped.py unwrap.

    Raises:
      UserError: nothing there, a format that is refused, or names of no known family.
    """
    if is_pipeline(path):
        return _of_pipeline(path, weights)
    file = _find_weights(path, weights)
    state, notes = _unwrapped(_read(file), weights, file)
    family = recognise(state, file.endswith(".pt") and is_torchscript(file), file)
    beside, more = _beside(file, family, os.path.isdir(path))
    pictures = family.pictures(beside)
    state = family.known_names(state)
    state = {**state, **family.further(state, beside.folder, _read)}
    state = family.held(state, beside)
    apart = {n: _words(os.path.join(beside.folder, f)) for n, f in family.folders.items()}
    beside = dataclasses.replace(beside, tokenizers=family.tokenizers(state) | apart)
    return Checkpoint(file, family, state, beside, pictures, (*notes, *more))


def _unwrapped(state: State, weights: str, file: str) -> tuple[State, list[str]]:
    """`unwrap`, but for names that a family has as they are."""
    bare = (family for family in families().values() if family.bare)
    if weights != "ema" and any(family.recognises(state, False) for family in bare):
        return state, []
    return unwrap(state, weights, file)


def _of_pipeline(path: str, weights: str) -> Checkpoint:
    """A folder of diffusers' with a folder for each network."""
    found = open_pipeline(path, read_archive, weights)
    index = os.path.join(path, INDEX)
    family = recognise(found.state, False, index)
    tokenizers = {name: _words(folder) for name, folder in found.tokenizers.items()}
    beside = Beside(path, found.configs, index, tokenizers=tokenizers)
    return Checkpoint(index, family, found.state, beside, {}, tuple(found.notes))


def _words(folder: str) -> Beside:
    """A tokenizer's folder; special_tokens_map.json says more of old ones (transformers 5.24,
    tokenization_utils_base.py), and pads Stable Diffusion 2's texts."""
    path, named = (os.path.join(folder, name) for name in _WORDS)
    config = read_json(path) if os.path.isfile(path) else {}
    if "added_tokens_decoder" not in config and os.path.isfile(named):
        config |= read_json(named)
    return Beside(folder, config, path, _tokenizer_in(folder))


def _find_weights(path: str, weights: str = "") -> str:
    """The weights file, or the index of its shards."""
    if os.path.isfile(path):
        return _index_of(path) if _SHARD.search(path) else path
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such file or folder{no_download(path)}")
    for name in WEIGHTS:
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    names = sorted(os.listdir(path))
    if chosen := choose(names, weights):
        return os.path.join(path, chosen.name)
    found = [name for name in names if _INDEX.search(name)]
    found += [name for name in names if _FILE.search(name) and not _SHARD.search(name)]
    found = found or [name for name in names if _SHARD.search(name)]
    if len(found) == 1:
        return os.path.join(path, found[0])
    if found and _SHARD.search(found[0]):
        raise UserError(
            f"{path}: {found[0]} and {len(found) - 1} more shards, but no index of them"
        )
    what = (
        f"several weights files ({', '.join(found)}), name one"
        if found
        else f"no weights file ({', '.join(WEIGHTS)}){_elsewhere(path)}"
    )
    raise UserError(f"{path}: {what}")


def _elsewhere(path: str) -> str:
    """Where the weights of a folder without any may be: in a zip, or one folder below."""
    here = glob.escape(path)
    found = sorted(p for name in ("*", "*/*") for p in glob.glob(os.path.join(here, name)))
    if weights := next(filter(_FILE.search, found), ""):
        return f"; give {os.path.dirname(weights)}"
    packed = next((p for p in found if p.lower().endswith(".zip")), "")
    return f"; unzip {packed} first and give the folder that holds the weights" if packed else ""


def _index_of(shard: str) -> str:
    """The index beside a shard that lists it, else the shard."""
    folder, name = os.path.split(os.path.abspath(shard))
    for index in sorted(filter(_INDEX.search, os.listdir(folder))):
        path = os.path.join(folder, index)
        if name in (read_json(path).get("weight_map") or {}).values():
            return path
    return shard


def _read(path: str) -> State:
    """The tensors of a file, or of the weights in a folder."""
    path = _find_weights(path) if os.path.isdir(path) else path
    if path.endswith(".safetensors"):
        return read_safetensors(path)
    if _INDEX.search(path):
        return read_sharded(path, read_archive)
    if path.endswith((".npz", ".npy")):
        raise UserError(
            f"{path}: numpy archives are not read (they may hold pickles); give .safetensors"
        )
    return read_archive(path)


def _beside(file: str, family: Family, whole: bool) -> tuple[Beside, list[str]]:
    """What lies beside a weights file, where the release puts it, and notes; whole: the folder was
    named, so that a tokenizer there belongs to it."""
    folder = os.path.dirname(os.path.abspath(file))
    path, config, notes = os.path.join(folder, family.config_name), {}, []
    if family.config_name and os.path.isfile(path):
        config = read_json(path)
        if other := family.foreign(config):
            notes = [f"{path}: is of a {other}, not of these weights; it is not read"]
            config = {}
    tokenizer = _tokenizer_in(folder) if whole or config else ""
    return Beside(folder, config, path if config else "", tokenizer), notes


def _tokenizer_in(folder: str) -> str:
    """The path of a tokenizer in a folder, or ""."""
    found = (os.path.join(folder, name) for name in _TOKENIZERS)
    return next((name for name in found if os.path.isfile(name)), "")

"""Finds out what a checkpoint is, of open_clip, Hugging Face or OpenAI, by its tensors' names.

The file exists so that `convert IN OUT` needs no flag for the input's format.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import hf, mae, open_clip, open_clip_config, preprocess
from vlp_jax.interop.rules import Family
from vlp_jax.interop.tensors import State
from vlp_jax.interop.torch_file import is_torchscript, read_archive
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
_FILE = re.compile(r"\.(safetensors|pt|pth|bin)$")
_SWITCHES = (  # fields of the towers that shapes cannot tell
    "activation", "norm_eps", "head_width", "num_heads", "pool", "cls_token", "pos_embed",
    "pre_norm", "causal",
)  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "spiece.model", "sentencepiece.model", "tokenizer.model")
FAMILIES: dict[str, Family] = {
    "open_clip": open_clip.OPEN_CLIP,
    "openai": open_clip.OPEN_CLIP,
    "open_clip_siglip": open_clip.OPEN_CLIP_SIGLIP,
    "hf_clip": hf.HF_CLIP,
    "hf_siglip": hf.HF_SIGLIP,
    "hf_mae": mae.HF_MAE,
    "mae": mae.OFFICIAL_MAE,
}
_SIGNS = (  # the first tensor name that is present decides
    ("visual.trunk.attn_pool.latent", "open_clip_siglip"),
    ("visual.conv1.weight", "open_clip"),
    ("vision_model.head.probe", "hf_siglip"),
    ("vision_model.embeddings.patch_embedding.weight", "hf_clip"),
    ("decoder.decoder_pred.weight", "hf_mae"),
    ("patch_embed.proj.weight", "mae"),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A released checkpoint, its weights unread.

    Attributes:
      path: the weights file, for messages.
      kind: a key of FAMILIES.
      state: {name: Tensor}.
      config: config.json or open_clip_config.json; {} for a bare file.
      preprocessing: what the files say of pictures (interop/preprocess.py); {} without a file.
      tokenizer_file: a tokenizer beside the weights, or "".
      config_file: where `config` was read, or "".
      notes: what the user should know of how the weights were found.
    """

    path: str
    kind: str
    state: State
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    tokenizer_file: str = ""
    config_file: str = ""
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        """The name table of its kind, and of the kind of text projection that it has."""
        if self.kind in ("open_clip", "open_clip_siglip"):
            trunk = self.is_siglip
            matrix = f"{'text.' if trunk else ''}text_projection"
            linear = f"{matrix}.weight" in self.state or (trunk and matrix not in self.state)
            return open_clip.family(trunk, linear)
        return FAMILIES[self.kind]

    @property
    def is_hf(self) -> bool:
        return self.kind.startswith("hf_")

    @property
    def is_siglip(self) -> bool:
        return self.kind.endswith("siglip")

    @property
    def is_mae(self) -> bool:
        return self.kind.endswith("mae")

    @property
    def text_cfg(self) -> Mapping[str, Any]:
        """open_clip's words about the text tower; {} elsewhere."""
        return _get(self.config, "model_cfg", "text_cfg") or {}

    def fields(self) -> dict[str, Any]:
        """What the library builds from the config beside the weights: {name, embed_dim, image,
        text} for make_method; {} where there is no config or it says no sizes.
        """
        if self.is_hf and self.config:
            return hf.method_fields(self.config, self.config_file or self.path)
        model = _get(self.config, "model_cfg") or {}
        if {"vision_cfg", "text_cfg"} <= set(model):
            return open_clip_config.read(model, self.config_file or self.path)
        return {}

    def arch_changes(self) -> dict[str, dict[str, Any]]:
        """Switches of the towers that shapes cannot tell: {'image': {...}, 'text': {...}}."""
        if said := self.fields():
            return {
                side: {key: value for key, value in said[side].items() if key in _SWITCHES}
                for side in ("image", "text")
            }
        if self.kind == "openai" or _get(self.config, "model_cfg", "quick_gelu"):
            quick = {"activation": "quick_gelu"}
            is_vit = "visual.class_embedding" in self.state
            return {"image": dict(quick) if is_vit else {}, "text": dict(quick)}
        if self.kind == "open_clip_siglip":  # open_clip runs the first SigLIP with exact GELU
            return {"image": {"activation": "gelu"}, "text": {"activation": "gelu"}}
        return {"image": {}, "text": {}}


def open_checkpoint(path: str, weights: str = "") -> Checkpoint:
    """Opens a weights file or a folder that holds one; weights: see wrapped.py unwrap.

    Raises:
      UserError: nothing there, a format that is refused, or names of no known family.
    """
    file = _find_weights(path)
    state, notes = unwrap(_read(file), weights, file)
    state = mae.known_names(_native_names(state))
    kind = next((kind for sign, kind in _SIGNS if sign in state), None)
    if kind is None:
        first = ", ".join(list(state)[:3])
        known = "neither an open_clip nor a Hugging Face CLIP, SigLIP or MAE"
        raise UserError(f"{file}: {known} (holds {first})")
    if kind == "open_clip" and file.endswith(".pt") and is_torchscript(file):
        kind = "openai"
    folder = os.path.dirname(os.path.abspath(file))
    config, config_file, more = _config(folder, kind)
    tokenizer = next(
        (name for name in _TOKENIZERS if os.path.isfile(os.path.join(folder, name))), ""
    )
    beside = tokenizer and (os.path.isdir(path) or config)
    return Checkpoint(
        file,
        kind,
        state,
        config,
        _preprocessing(folder, kind, config, config_file),
        os.path.join(folder, tokenizer) if beside else "",
        config_file,
        (*notes, *more),
    )


def _find_weights(path: str) -> str:
    """The weights file, or the index of its shards."""
    if os.path.isfile(path):
        return _index_of(path) if _SHARD.search(path) else path
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such file or folder")
    for name in WEIGHTS:
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    names = sorted(os.listdir(path))
    found = [name for name in names if _INDEX.search(name)]
    found += [name for name in names if _FILE.search(name) and not _SHARD.search(name)]
    found = found or [name for name in names if _SHARD.search(name)]
    if len(found) == 1:
        return os.path.join(path, found[0])
    what = (
        f"several weights files ({', '.join(found)}), name one"
        if found
        else f"no weights file ({', '.join(WEIGHTS)})"
    )
    raise UserError(f"{path}: {what}")


def _index_of(shard: str) -> str:
    """The index beside a shard that lists it, else the shard."""
    folder, name = os.path.split(os.path.abspath(shard))
    for index in sorted(filter(_INDEX.search, os.listdir(folder))):
        path = os.path.join(folder, index)
        if name in (read_json(path).get("weight_map") or {}).values():
            return path
    return shard


def _read(path: str) -> State:
    if path.endswith(".safetensors"):
        return read_safetensors(path)
    if _INDEX.search(path):
        return read_sharded(path, read_archive)
    if path.endswith((".npz", ".npy")):
        raise UserError(
            f"{path}: numpy archives are not read (they may hold pickles); give .safetensors"
        )
    return read_archive(path)


def _native_names(state: State) -> State:
    """open_clip's custom-text models put the native text tower under `text.`; drop it there."""
    if "visual.conv1.weight" not in state or "text.token_embedding.weight" not in state:
        return state
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}


def _config(folder: str, kind: str) -> tuple[Mapping[str, Any], str, list[str]]:
    """The model's config beside the weights, where the release puts it: (config, file, notes)."""
    hugging_face = kind.startswith("hf_")
    path = os.path.join(folder, "config.json" if hugging_face else "open_clip_config.json")
    if not os.path.isfile(path):
        return {}, "", []
    config = read_json(path)
    wanted = {"hf_clip": "clip", "hf_siglip": "siglip", "hf_mae": "vit_mae"}.get(kind)
    said = config.get("model_type", wanted)
    if said != wanted and hugging_face:
        return {}, "", [f"{path}: is of a {said!r}, not of these weights; it is not read"]
    return config, path, []


def _preprocessing(
    folder: str, kind: str, config: Mapping[str, Any], path: str
) -> Mapping[str, Any]:
    """What the files beside the weights say of pictures; {} where they say nothing."""
    if not config:
        return {}
    if not kind.startswith("hf_"):
        return preprocess.from_open_clip(_get(config, "preprocess_cfg") or {}, path)
    return _hf_pictures(folder, {"hf_siglip": "Siglip", "hf_mae": "ViT"}.get(kind, "CLIP"))


def _hf_pictures(folder: str, processor: str) -> Mapping[str, Any]:
    """Preprocessing by the file that transformers would take: a processor's own, where it holds
    that of pictures, else preprocessor_config.json; {} without one."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = os.path.join(folder, name)
        said = read_json(path) if os.path.isfile(path) else None
        if name == "processor_config.json":
            said = _get(said, "image_processor")
        if isinstance(said, Mapping):
            return preprocess.from_hf(said, path, processor)
    return {}


def _get(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config

"""Finds out what a checkpoint is, of open_clip, Hugging Face or OpenAI, by its tensors' names.

The file exists so that `convert IN OUT` needs no flag for the input's format.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import hf, mae, open_clip, preprocess
from vlp_jax.interop.rules import Family
from vlp_jax.interop.tensors import State
from vlp_jax.interop.torch_file import is_torchscript, read_torch_file
from vlp_jax.interop.weights_file import read_json, read_safetensors, read_sharded

WEIGHTS = (  # in order of preference: nothing that needs the pickle reader before safetensors
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
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
    """

    path: str
    kind: str
    state: State
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    tokenizer_file: str = ""

    @property
    def family(self) -> Family:
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

    def arch_changes(self) -> dict[str, dict[str, Any]]:
        """Switches of the towers that shapes cannot tell: {'image': {...}, 'text': {...}}."""
        if self.is_hf and self.config:
            return hf.arch_changes(self.config, self.path)
        if self.kind == "openai" or _get(self.config, "model_cfg", "quick_gelu"):
            quick = {"activation": "quick_gelu"}
            is_vit = "visual.class_embedding" in self.state
            return {"image": dict(quick) if is_vit else {}, "text": dict(quick)}
        if (
            self.kind == "open_clip_siglip"
        ):  # open_clip runs the first SigLIP with exact GELU, big_vision with tanh
            act = _get(self.config, "model_cfg", "text_cfg", "act_kwargs", "approximate")
            return {
                "image": {"activation": "gelu"},
                "text": {"activation": "gelu_tanh" if act == "tanh" else "gelu"},
            }
        return {"image": {}, "text": {}}


def open_checkpoint(path: str) -> Checkpoint:
    """Opens a weights file or a folder that holds one.

    Raises:
      UserError: nothing there, a format that is refused, or names of no known family.
    """
    weights = _find_weights(path)
    state = _read(weights)
    state = mae.known_names(_native_names(state))
    kind = next((kind for sign, kind in _SIGNS if sign in state), None)
    if kind is None:
        first = ", ".join(list(state)[:3])
        known = "neither an open_clip nor a Hugging Face CLIP, SigLIP or MAE"
        raise UserError(f"{weights}: {known} (holds {first})")
    if kind == "open_clip" and weights.endswith(".pt") and is_torchscript(weights):
        kind = "openai"
    folder = os.path.dirname(os.path.abspath(weights))
    config, preprocessing = _configs(folder, kind, os.path.basename(weights))
    tokenizer = next(
        (name for name in _TOKENIZERS if os.path.isfile(os.path.join(folder, name))), ""
    )
    in_folder = os.path.isdir(path) and tokenizer
    return Checkpoint(
        weights,
        kind,
        state,
        config,
        preprocessing,
        os.path.join(folder, tokenizer) if in_folder else "",
    )


def _find_weights(path: str) -> str:
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such file or folder")
    for name in WEIGHTS:
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    found = [
        name for name in sorted(os.listdir(path)) if re.search(r"\.(safetensors|pt|pth|bin)$", name)
    ]
    if len(found) == 1:
        return os.path.join(path, found[0])
    what = (
        f"several weights files ({', '.join(found)}), name one"
        if found
        else f"no weights file ({', '.join(WEIGHTS)})"
    )
    raise UserError(f"{path}: {what}")


def _read(path: str) -> State:
    if path.endswith(".safetensors"):
        return read_safetensors(path)
    if path.endswith(".index.json"):
        return read_sharded(path)
    if path.endswith((".npz", ".npy")):
        raise UserError(
            f"{path}: numpy archives are not read (they may hold pickles); give .safetensors"
        )
    return read_torch_file(path)


def _native_names(state: State) -> State:
    """open_clip's custom-text models put the native text tower under `text.`; drop it there."""
    if "visual.conv1.weight" not in state or "text.token_embedding.weight" not in state:
        return state
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}


def _configs(folder: str, kind: str, weights: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Configs of model and preprocessing beside the weights, where the release puts them."""
    name = "config.json" if kind.startswith("hf_") else "open_clip_config.json"
    path = os.path.join(folder, name)
    if weights not in WEIGHTS or not os.path.isfile(path):
        return {}, {}
    config = read_json(path)
    if name == "open_clip_config.json":
        return config, preprocess.from_open_clip(_get(config, "preprocess_cfg") or {}, path)
    return config, _hf_pictures(folder, {"hf_siglip": "Siglip", "hf_mae": "ViT"}.get(kind, "CLIP"))


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

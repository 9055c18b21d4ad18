"""A pipeline's folder as Hugging Face diffusers saves it: model_index.json, which names its
components and their classes, and a folder of each.

The tensors of all networks become one state, under the names of their components. The file exists
so that a pipeline is read and proven like a file of one network.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop import variants
from vlp_jax.interop.clip_text import PLAIN, PROJECTED, whole_names
from vlp_jax.interop.diffusers import renamed
from vlp_jax.interop.diffusers_autoencoder import KL, VQ, with_scale
from vlp_jax.interop.diffusers_unet import CONTROL, CROSS
from vlp_jax.interop.diffusers_unet import PLAIN as UNCONDITIONAL
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import read_json, read_safetensors, read_sharded

INDEX = "model_index.json"
SEVERAL = "MultiControlNetModel"
NETWORKS = {  # component -> classes that are read
    "unet": (CROSS, UNCONDITIONAL),
    "vae": (KL, VQ),
    "text_encoder": (PLAIN, PROJECTED),
    "text_encoder_2": (PROJECTED, PLAIN),
    "controlnet": (CONTROL, SEVERAL),
}
ALIASES = {"vqvae": "vae"}  # as the pipelines of latent diffusion name it
LEFT = {  # what a pipeline has beside its networks -> what is missed without it
    "safety_checker": "nothing drawn is filtered",
    "feature_extractor": "",
    "image_encoder": "pictures are no prompts",
    "depth_estimator": "depth maps come from elsewhere",
}
TOKENIZERS = {"tokenizer": "text", "tokenizer_2": "text_2"}
Reader = Callable[[str], Mapping[str, Any]]


class Pipeline(NamedTuple):
    """A pipeline, its weights unread.

    state: {component.name: Tensor}. configs: {"": model_index.json, component: its config}.
    tokenizers: {field: folder}. notes: for the user.
    """

    state: State
    configs: dict[str, dict[str, Any]]
    tokenizers: dict[str, str]
    notes: list[str]


def is_pipeline(path: str) -> bool:
    """Whether a folder is one."""
    return os.path.isfile(os.path.join(path, INDEX))


def open_pipeline(path: str, read_torch: Reader, weights: str = "") -> Pipeline:
    """Opens the folder of a pipeline.

    Args:
      read_torch: reads a pickled file. weights: `raw` where averaged and raw ones lie there.

    Raises:
      UserError: no model_index.json of a pipeline, a component that we have not or that is not
        there; in one line.
    """
    index = os.path.join(path, INDEX)
    said = read_json(index)
    found = Pipeline({}, {"": said}, {}, [])
    for name, kind in _components(said, index).items():
        folder = os.path.join(path, name)
        if name in LEFT:
            found.notes.extend([f"{name} is left out: {LEFT[name]}"] if LEFT[name] else [])
        elif name in TOKENIZERS:
            found.tokenizers[TOKENIZERS[name]] = folder
        else:
            _add(found, ALIASES.get(name, name), folder, kind, read_torch, weights)
            more = 1
            while kind == SEVERAL and os.path.isdir(f"{folder}_{more}"):
                each = f"{name}_{more}", f"{folder}_{more}"
                _add(found, *each, CONTROL, read_torch, weights)
                more += 1
    for name in ("unet", "vae", "scheduler"):
        if name not in found.configs:
            raise UserError(f"{index}: names no {name}")
    blocks = found.configs["unet"].get("down_block_types") or ()
    texts = found.configs.keys() & {"text_encoder", "text_encoder_2"}
    if not texts and any("CrossAttn" in str(block) for block in blocks):
        raise UserError(f"{index}: names no text_encoder, and its unet attends to texts")
    return found


def joins(net: Mapping[str, Any], coder: Mapping[str, Any], where: str) -> dict[str, str]:
    """What a U-Net sees beside the latents, by its further channels, as config of ours.

    Raises:
      UserError: channels of another number.
    """
    width = coder.get("code_width") or coder["latent_channels"]
    known = {0: "", 1: "depth", width + 1: "mask"}
    more = net["in_channels"] - width
    if more not in known:
        what = f"{width} are the latents, and {more} more are not known"
        raise UserError(f"{where}: in_channels {net['in_channels']}: {what}")
    return {"joins": known[more]} if more else {}


def _components(said: Mapping[str, Any], index: str) -> dict[str, str]:
    """{component: its class}. Raises UserError for an unknown one."""
    found, known = {}, {*NETWORKS, *ALIASES, *LEFT, *TOKENIZERS, "scheduler"}
    for name, value in said.items():
        pair = isinstance(value, list | tuple) and len(value) == 2
        if name.startswith("_") or not pair or not all(isinstance(v, str) for v in value):
            continue
        if name not in known:
            kind = said.get("_class_name")
            hint = nearest(name, known)
            raise UserError(f"{index}: {kind} has a {name}, which is not read{hint}")
        classes = NETWORKS.get(ALIASES.get(name, name))
        if classes and value[1] not in classes:
            hint = nearest(value[1], classes)
            raise UserError(f"{index}: {name}: class {value[1]!r} is not read{hint}")
        found[name] = value[1]
    return found


def _add(
    found: Pipeline, name: str, folder: str, kind: str, read_torch: Reader, weights: str
) -> None:
    """Adds a component's config and tensors."""
    path = os.path.join(folder, "scheduler_config.json" if name == "scheduler" else "config.json")
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file, but {INDEX} names {name}")
    config = read_json(path)
    if name == "scheduler":
        found.configs[name] = config
        return
    if kind in (PLAIN, PROJECTED):  # a config.json of CLIP's need not say which
        config["architectures"] = [kind]
    else:
        config.setdefault("_class_name", CONTROL if kind == SEVERAL else kind)
    found.configs[name] = config
    chosen = variants.choose(sorted(os.listdir(folder)), weights)
    if chosen is None:
        raise UserError(f"{folder}: holds no weights, but {INDEX} names {name}")
    found.notes.extend(variants.note(chosen, name))
    state = _read(os.path.join(folder, chosen.name), read_torch)
    state = whole_names(state) if name.startswith("text_encoder") else renamed(state)
    if name == "vae":
        state = with_scale(state, config, path)
    found.state.update({f"{name}.{key}": tensor for key, tensor in state.items()})


def _read(path: str, read_torch: Reader) -> State:
    if path.endswith(".json"):
        return read_sharded(path, read_torch)
    return read_safetensors(path) if path.endswith(".safetensors") else read_torch(path)

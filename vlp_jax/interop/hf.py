"""What the model classes of Hugging Face transformers share: config.json's words, the blocks'
names, and the files of pictures beside them.

Names as in transformers 5. The file exists so that a family of theirs is its own tensors and its
config's defaults.
"""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import blocks, norm, patches, split
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.family import Beside, Config, Configs, Family
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import read_json

ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}  # theirs -> ours

PICTURES = "preprocessor_config.json"
IGNORED = (r".*\.position_ids",)  # buffers that older versions stored
_HEADS = split("self_attn.{}_proj", ("q", "k", "v"))
_BERT = ("query", "key", "value")


def clip_layers(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Blocks of CLIP's and SigLIP's towers."""
    norms, mlp = ("layer_norm1", "layer_norm2"), ("mlp.fc1", "mlp.fc2")
    return blocks(ours, f"{theirs}.encoder.layers.{{i}}", _HEADS, "self_attn.out_proj", norms, mlp)


def vit_layers(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Blocks of ViT and ViTMAE; theirs: with `{i}`."""
    norms, mlp = ("layernorm_before", "layernorm_after"), ("intermediate.dense", "output.dense")
    qkv = split("attention.attention.{}", _BERT)
    return blocks(ours, theirs, qkv, "attention.output.dense", norms, mlp)


def bert_layers(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Blocks of BERT; theirs: with `{i}`."""
    norms = ("attention.output.LayerNorm", "output.LayerNorm")
    qkv, mlp = split("attention.self.{}", _BERT), ("intermediate.dense", "output.dense")
    return blocks(ours, theirs, qkv, "attention.output.dense", norms, mlp)


def clip_towers() -> tuple[Rule, ...]:
    """What CLIPModel and SiglipModel name alike; `pre_layrnorm` is spelled so there."""
    vision, text = "vision_model", "text_model"
    return (
        *patches("image/patch_embed", f"{vision}.embeddings.patch_embedding"),
        Rule("image/cls_token", f"{vision}.embeddings.class_embedding"),
        Rule("image/pos_embed", f"{vision}.embeddings.position_embedding.weight"),
        *norm("image/norm_pre", f"{vision}.pre_layrnorm"),
        *clip_layers("image", vision),
        *norm("image/norm_post", f"{vision}.post_layernorm"),
        *clip_text("text", text),
    )


def clip_text(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Their text tower without its projection."""
    return (
        Rule(f"{ours}/token_embed/embedding", f"{theirs}.embeddings.token_embedding.weight"),
        Rule(f"{ours}/pos_embed", f"{theirs}.embeddings.position_embedding.weight"),
        *clip_layers(ours, theirs),
        *norm(f"{ours}/norm_post", f"{theirs}.final_layer_norm"),
    )


class HuggingFace(Family):
    """A model class of transformers: config.json of one `model_type`, weights beside it.

    Class attributes: model_type; rules: its table; title: its class; processor: that of its
    pictures (interop/preprocess.py), or "" for texts; defaults: what its config class fills in.
    """

    config_name = "config.json"
    antialias = False
    library = "transformers"
    to = "hf"
    centre = "center_floor"
    model_type: str
    title: str
    rules: tuple[Rule, ...]
    processor: str = ""
    ignored: tuple[str, ...] = IGNORED

    def table(self, names: Any) -> Table:
        """The rules of the class."""
        del names
        return Table(f"Hugging Face {self.title}", self.rules, self.ignored)

    def foreign(self, config: Config) -> str:
        """A config.json of another model_type is not of these weights."""
        said = config.get("model_type", self.model_type)
        return "" if said == self.model_type else repr(said)

    def pictures(self, beside: Beside) -> Mapping[str, Any]:
        """Preprocessing by the file that transformers would take: a processor's own, where it holds
        that of pictures, else preprocessor_config.json; {} without one."""
        names = ("processor_config.json", PICTURES) if beside.config and self.processor else ()
        for name in names:
            path = os.path.join(beside.folder, name)
            said = read_json(path) if os.path.isfile(path) else {}
            if name == "processor_config.json":
                said = said.get("image_processor")
            if isinstance(said, Mapping) and os.path.isfile(path):
                return preprocess.from_hf(said, path, self.processor)
        return {}

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """config.json of a method but for its class and type. Raises UserError as `configs`."""
        raise NotImplementedError(self.name)

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """config.json, and preprocessor_config.json for pictures."""
        kind = {"architectures": [self.title], "model_type": self.model_type}
        found = {self.config_name: kind | self.config_json(method, tokenizer)}
        if self.processor:
            size = method["image"]["image_size"]
            found[PICTURES] = preprocess.to_hf(pictures, size, self.processor)
        return found

    def rebuilt(self, configs: Configs) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """What transformers builds of the written files."""
        method = self.method(configs[self.config_name], self.config_name)
        if not self.processor:
            return method, {}
        return method, preprocess.from_hf(configs[PICTURES], PICTURES, self.processor)


def left_out(family: HuggingFace, state: State) -> list[str]:
    """A note on the tensors of heads that are not read."""
    patterns = [pattern for pattern in family.ignored if pattern not in IGNORED]
    found = [name for name in state if any(re.fullmatch(p, name) for p in patterns)]
    return [f"{len(found)} tensors of a head are not read ({found[0]})"] if found else []


def read_layers(config: Config, where: str) -> dict[str, Any]:
    """The sizes of a stack of blocks: {width, num_layers, mlp_ratio, activation, norm_eps}.

    Raises:
      UserError: an activation that is not known.
    """
    activation = config["hidden_act"]
    if activation not in ACTIVATIONS:
        hint = nearest(str(activation), ACTIVATIONS)
        raise UserError(f"{where}: hidden_act {activation!r} is not known{hint}")
    return {
        "width": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "mlp_ratio": mlp_ratio(config["hidden_size"], config["intermediate_size"]),
        "activation": ACTIVATIONS[activation],
        "norm_eps": float(config["layer_norm_eps"]),
    }


def write_layers(tower: Config, num_heads: int) -> dict[str, Any]:
    """The inverse of `read_layers`, with the heads."""
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "hidden_size": tower["width"],
        "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
        "num_hidden_layers": tower["num_layers"],
        "num_attention_heads": num_heads,
        "hidden_act": names[tower["activation"]],
        "layer_norm_eps": tower["norm_eps"],
    }


def read_vit(config: Config, where: str) -> dict[str, Any]:
    """The sizes of a ViT. Raises UserError as `read_layers`, and for a rectangle."""
    size, patch = (image_side(config[key], where) for key in ("image_size", "patch_size"))
    margin = {"margin": True} if 0 < patch < size and size % patch else {}
    return read_layers(config, where) | {
        **margin,
        "name": "vit",
        "image_size": size,
        "patch_size": patch,
        "head_width": config["hidden_size"] // config["num_attention_heads"],
    }


def write_vit(tower: Config) -> dict[str, Any]:
    """The inverse of `read_vit`."""
    sides = {key: tower[key] for key in ("image_size", "patch_size")}
    return write_layers(tower, tower["width"] // tower["head_width"]) | sides


def mlp_ratio(width: int, hidden: int) -> float:
    """The ratio that gives this MLP width back: int(width * ratio) == hidden."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def image_side(size: Any, where: str) -> int:
    """A side that may be written as a pair. Raises UserError for a rectangle."""
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise UserError(f"{where}: {size} is not square")
    return int(sides.pop())


def read_towers(
    config: Config, defaults: Mapping[str, Config], fixed: Mapping[str, Config], where: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The two towers of CLIPConfig or SiglipConfig: (image, text, text_config filled up).

    Args:
      config: config.json. defaults: {vision, text} of the config classes. fixed: {image, text},
        what the model class is whatever its config says.

    Raises:
      UserError: see `read_layers`; pictures that are not in colour, a SigLIP without its head.
    """
    vision, text = (_side(config, side, defaults[side], where) for side in ("vision", "text"))
    if vision["num_channels"] != 3 or not vision.get("vision_use_head", True):
        raise UserError(f"{where}: only num_channels=3 and vision_use_head=true are read")
    words = read_layers(text, where) | {
        "name": "text",
        "num_heads": text["num_attention_heads"],
        "vocab_size": text["vocab_size"],
        "context_length": text["max_position_embeddings"],
    }
    return read_vit(vision, where) | fixed["image"], words | fixed["text"], text


def _side(config: Config, side: str, defaults: Config, where: str) -> dict[str, Any]:
    """One tower's keys; `text_config_dict` of old files takes the place of `text_config`."""
    key = f"{side}_config"
    said = config.get(f"{key}_dict")
    said = (config.get(key) or {}) if said is None else said
    return filled(defaults, said, f"{where}: {key}")


def write_towers(method: Config, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(vision_config, text_config) of both towers, as far as CLIP and SigLIP say them alike.

    Raises:
      UserError: an image tower that transformers has no class for.
    """
    image, text = method["image"], method["text"]
    if image["name"] != "vit":
        raise UserError("--to=hf: transformers has no ResNet CLIP; use --to=open_clip")
    words = write_layers(text, text["num_heads"]) | {
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
    }
    vision = {"model_type": f"{kind}_vision_model", **write_vit(image)}
    return vision, {"model_type": f"{kind}_text_model", **words}

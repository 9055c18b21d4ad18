"""Pipelines of Hugging Face diffusers: Stable Diffusion 1.x, 2.x and XL, its inpainting, depth and
ControlNet models, and latent diffusion without texts: a folder of folders.

The file exists to hold what is this family's alone: how the parts of a pipeline make one method.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import pipeline, preprocess
from vlp_jax.interop.clip_text import clip_text_rules, padding, read_clip_text, write_clip_text
from vlp_jax.interop.diffusers_autoencoder import (
    SCALE,
    STAT,
    autoencoder_rules,
    read_autoencoder,
    write_autoencoder,
)
from vlp_jax.interop.diffusers_scheduler import read_scheduler, write_scheduler
from vlp_jax.interop.diffusers_unet import CONTROL, control_rules, is_plain, unet_rules
from vlp_jax.interop.diffusers_unet_config import read_unet, write_unet
from vlp_jax.interop.family import Beside, Config, Configs, Family
from vlp_jax.interop.pipeline import ALIASES, INDEX, SEVERAL
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import Arrays

_TEXTS = {"text": "text_encoder", "text_2": "text_encoder_2"}  # our part -> component
_FILES = {"text_encoder": "model.safetensors", "text_encoder_2": "model.safetensors"}
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_MIDDLES = {"": "", "mask": "Inpaint", "depth": "Depth2Img"}  # joins -> a pipeline's name
_PATCHES = {  # what pipelines correct in their scheduler's config
    "StableDiffusionPipeline": {"steps_offset": 1, "clip_sample": False},
    "StableDiffusionImg2ImgPipeline": {"steps_offset": 1, "clip_sample": False},
    "StableDiffusionInpaintPipeline": {"steps_offset": 1, "skip_prk_steps": True},
}
_SIDE = 64  # of latents where a config says none


class Diffusers(Family):
    """A pipeline."""

    has = ("unet.conv_in.weight", "vae.decoder.conv_in.weight")
    config_name = INDEX
    archs = "latent_diffusion"
    release = preprocess.DIFFUSERS
    methods = ("latent_diffusion",)
    library, to = "diffusers", "diffusers"
    sees_padding = True
    untold = ("latent_scale",)
    compared = ("schedule", "states", "null")

    def table(self, names: Any) -> Table:
        """All parts; the names tell whether the U-Net's attentions are plain."""
        rules = (
            *unet_rules("unet", "unet.", is_plain(names, "unet.")),
            *autoencoder_rules("autoencoder", "vae."),
            Rule(STAT, f"vae.{SCALE}"),
            *(rule for n, its in _TEXTS.items() for rule in clip_text_rules(n, f"{its}.")),
            *control_rules("control", "controlnet."),
            *control_rules("control_0", "controlnet."),
            *control_rules("control_{k}", "controlnet_{k}."),
        )
        factor = f"vae.{SCALE}"
        told = () if STAT in names or factor in names else (re.escape(factor),)  # by method.scale
        return Table("diffusers pipeline", rules, (r".*\.position_ids", *told))

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What diffusers builds.

        Raises:
          UserError: a network, a scheduler or a switch that we have not; names the file.
        """
        folder = os.path.dirname(where)
        at = lambda name, file="config.json": os.path.join(folder, name, file)  # noqa: E731
        texts = {
            ours: read_clip_text(config[its], at(its))
            for ours, its in _TEXTS.items()
            if its in config
        }
        pooled = texts["text_2"]["embed_dim"] if "text_2" in texts else 0
        coder = read_autoencoder(config["vae"], at("vae"))
        factor = 2 ** (len(coder["widths"]) - 1)
        zeros = config[""].get("force_zeros_for_empty_prompt", False)
        found = {
            "name": "latent_diffusion",
            "image_size": factor * _side(config["unet"].get("sample_size")),
            "unet": read_unet(config["unet"], at("unet"), pooled),
            "autoencoder": coder,
            "schedule": _schedule(config, at("scheduler", "scheduler_config.json"))[0],
            **texts,
        }
        found |= {"states": "penultimate" if "text_2" in texts else "last"} if texts else {}
        found |= {"null": "zeros"} if zeros else {}
        found |= pipeline.joins(found["unet"], coder, at("unet"))
        return found | _controls(config, at)

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """What the pipeline's class changes of its scheduler's config."""
        said, (schedule, drawing) = beside.config, _schedule(beside.config, beside.file)
        try:
            found = [*zip(read_scheduler(said["scheduler"], ""), (schedule, drawing), strict=True)]
        except UserError:  # what only its pipeline corrects
            return ["scheduler: its config is corrected as the pipeline does it"]
        changed = [k for old, new in found for k in new | old if old.get(k) != new.get(k)]
        return [f"scheduler: {k} is corrected as the pipeline does it" for k in changed]

    def manifest(self, beside: Beside) -> dict[str, Any]:
        """How the pipeline draws."""
        return {"drawing": _schedule(beside.config, beside.file)[1]}

    def has_clips_vocabulary(self, beside: Beside, vocab_size: int) -> bool | None:
        """CLIP's sizes mean CLIP's ids, whatever file lies there."""
        return vocab_size == 49408

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """See `padding`."""
        return padding(beside, file, vocab_size)

    def empty_texts(self, ids: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """empty and empty_2."""
        return {name.replace("text", "empty"): found for name, found in ids.items()}

    def tokenizer_folder(self, name: str) -> str:
        """As diffusers names them."""
        return _tokenizer(name)

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """model_index.json and a config of each component."""
        del pictures, tokenizer
        found: dict[str, dict[str, Any]] = {}
        width = sum(method[name]["width"] for name in _TEXTS if name in method)
        side = method["image_size"] // 2 ** (len(method["autoencoder"]["widths"]) - 1)
        found["unet"] = write_unet(method["unet"], width) | {"sample_size": side}
        scale = method["numbers"].get(STAT) or method["scale"]
        found["vae"] = write_autoencoder(method["autoencoder"], scale)
        found["vae"]["sample_size"] = method["image_size"]
        for ours, its in _TEXTS.items():
            if ours in method:
                found[its] = write_clip_text(method[ours])
        for order, part in enumerate(_control_parts(method)):
            name = f"controlnet_{order}" if order else "controlnet"
            found[name] = write_unet(method[part], width)
        bare = not any(name in method for name in _TEXTS)
        written = {f"{_home(name, bare)}/config.json": said for name, said in found.items()}
        written["scheduler/scheduler_config.json"] = _scheduler(method)
        return {INDEX: _index(method, found, written), **written}

    def rebuilt(self, configs: Configs) -> tuple[dict[str, Any], Config]:
        """What diffusers builds of the written files."""
        nested = {os.path.dirname(file): content for file, content in configs.items()}
        nested = {ALIASES.get(name, name): content for name, content in nested.items()}
        return self.method(nested, INDEX), {}

    def notes(self, method: Config, pictures: Config) -> list[str]:
        """What the pipeline needs beside."""
        del pictures
        what = "the pipeline needs a depth_estimator and a feature_extractor beside these"
        return [what] if method["joins"] == "depth" else []

    def spread(self, state: Arrays) -> dict[str, Arrays]:
        """A file of each component; the latents' factor is in a config."""
        found: dict[str, Arrays] = {}
        bare = not any(name.startswith("text_encoder") for name in state)
        for name, array in state.items():
            component, _, rest = name.partition(".")
            if rest != SCALE:
                file = f"{_home(component, bare)}/{_FILES.get(component, _WEIGHTS)}"
                found.setdefault(file, {})[rest] = array
        return found

    def reread(self, folder: str) -> State:
        """The tensors of a folder that was written."""
        return pipeline.open_pipeline(folder, _no_pickles).state


def _home(component: str, bare: bool) -> str:
    """Its folder; bare: of a pipeline without texts."""
    return next((a for a, name in ALIASES.items() if bare and name == component), component)


def _side(said: Any) -> int:
    """sample_size, a number or a pair."""
    sides = said if isinstance(said, list | tuple) else [said]
    return min(side or _SIDE for side in sides)


def _schedule(config: Configs, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """As the pipeline's class corrects its scheduler's config."""
    patches = _PATCHES.get(str(config[""].get("_class_name")), {})
    return read_scheduler({**config["scheduler"], **patches}, where)


def _controls(config: Configs, at: Any) -> dict[str, Any]:
    """ControlNets, of equal sizes."""
    names = [name for name in config if name.startswith("controlnet")]
    nets = [read_unet(config[name], at(name)) for name in names]
    for name, net in zip(names, nets, strict=True):
        if net != nets[0]:
            raise UserError(f"{at(name)}: is of other sizes than {at(names[0])}")
    return {"controls": len(nets), "control": nets[0]} if nets else {}


def _tokenizer(name: str) -> str:
    return name.replace("text", "tokenizer")


def _control_parts(method: Config) -> list[str]:
    return [name for name in method if (name + "_").startswith("control_")]


def _scheduler(method: Config) -> dict[str, Any]:
    """scheduler_config.json. Raises UserError where that cannot say the schedule."""
    written = write_scheduler(method["schedule"], method["drawing"])
    again = read_scheduler(written, "scheduler")[0]
    for key, value in method["schedule"].items():
        if again[key] != value and key != "last_is_one":
            kind = written["_class_name"]
            raise UserError(f"--to=diffusers: {kind} cannot say schedule.{key}={value!r}")
    return written


def _index(method: Config, found: Configs, written: Configs) -> dict[str, Any]:
    """model_index.json."""
    classes = {
        name: ["transformers", content["architectures"][0]]
        if "architectures" in content
        else ["diffusers", content["_class_name"]]
        for name, content in found.items()
        if name.partition("_")[0] != "controlnet"
    }
    controls = _control_parts(method)
    if controls:
        classes["controlnet"] = ["diffusers", CONTROL if len(controls) == 1 else SEVERAL]
    scheduler = written["scheduler/scheduler_config.json"]["_class_name"]
    classes["scheduler"] = ["diffusers", scheduler]
    for name, files in method["tokenizers"].items():
        kind = "CLIPTokenizer" if "vocab.json" in files else "PreTrainedTokenizerFast"
        classes |= {_tokenizer(name): ["transformers", kind]} if files else {}
    xl = "text_2" in method
    middle = ("ControlNet" if controls else "") + _MIDDLES[method["joins"]]
    kind = f"StableDiffusion{'XL' if xl else ''}{middle}Pipeline"
    if not any(name in method for name in _TEXTS):
        classes = {_home(name, True): pair for name, pair in classes.items()}
        return {"_class_name": "LDMPipeline", **classes}
    if xl:
        return {
            "_class_name": kind,
            "force_zeros_for_empty_prompt": method["null"] == "zeros",
            **classes,
        }
    none = {name: [None, None] for name in ("safety_checker", "feature_extractor", "image_encoder")}
    return {"_class_name": kind, "requires_safety_checker": False, **none, **classes}


def _no_pickles(path: str) -> Any:
    raise UserError(f"{path}: is no safetensors file")


FAMILY = Diffusers()

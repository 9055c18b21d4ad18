"""Single files of Stable Diffusion 1.x, 2.x and XL, `.safetensors` or `.ckpt`, under the names of
CompVis/latent-diffusion and Stability's generative-models: U-Net, autoencoder and text towers.

The file exists to hold what is this family's alone: what such a file says, and what it does not.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax.interop import ldm_sizes, preprocess
from vlp_jax.interop.clip_text import END, clip_text_rules, padding
from vlp_jax.interop.diffusers_autoencoder import STAT
from vlp_jax.interop.families.open_clip import text_tower
from vlp_jax.interop.family import Beside, Family
from vlp_jax.interop.ldm_names import (
    UNET,
    VAE,
    autoencoder_levels,
    autoencoder_rules,
    run,
    unet_levels,
    unet_rules,
)
from vlp_jax.interop.pipeline import joins
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State, from_arrays

_SCALE = "scale_factor"  # a buffer of latent diffusion where it was measured
_HF, _OPEN = ".transformer.", ".model."  # towers under the names of transformers, of open_clip
_SD, _XL = "cond_stage_model", "conditioner.embedders."
_CUT = 1  # of SD 2's blocks, the last: it looks at what that sees
_IGNORED = (
    r"[a-z0-9_]*(alphas_cumprod|betas)(_prev)?",
    r"posterior_[a-z_]*[12]?|lvlb_weights|logvar|denoiser\.sigmas",
    r"first_stage_model\.loss\..*",
    r".*\.(position_ids|attn_mask|logit_scale)",
    r"cond_stage_model\.model\.text_projection",
    r"depth_model\..*",
)


class StableDiffusion(Family):
    """One file of all networks."""

    has = (f"{UNET}input_blocks.0.0.weight", f"{VAE}encoder.conv_in.weight")
    archs = "latent_diffusion"
    release = preprocess.DIFFUSERS
    methods = ("latent_diffusion",)

    def table(self, names: Any) -> Table:
        """For the sizes that the names have."""
        rules = [*unet_rules("unet", unet_levels(names)), Rule(STAT, _SCALE)]
        rules += autoencoder_rules("autoencoder", autoencoder_levels(names))
        ignored = list(_IGNORED)
        for part, place in towers(names).items():
            hf = place.endswith(_HF)
            rules += clip_text_rules(part, place) if hf else text_tower(place, False, part)
        if f"{_SD}{_OPEN}token_embedding.weight" in names:
            blocks = f"{_SD}{_OPEN}transformer.resblocks."
            last = run(names, f"{blocks}{{}}.ln_1.weight") - _CUT
            ignored.append(re.escape(f"{blocks}{last}.") + ".*")
        return Table("Stable Diffusion's single file", tuple(rules), tuple(ignored))

    def tokenizers(self, state: State) -> dict[str, Beside]:
        """Texts of CLIP are padded with their end, those of open_clip with id 0."""
        pads = {part: END if place.endswith(_HF) else "!" for part, place in towers(state).items()}
        return {part: Beside(config={"pad_token": pad}) for part, pad in pads.items()}

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """See `padding`."""
        return padding(beside, file, vocab_size)

    def empty_texts(self, ids: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """empty and empty_2."""
        return {name.replace("text", "empty"): found for name, found in ids.items()}

    def held(self, state: State, beside: Beside) -> State:
        """The latents' factor, where the file has none."""
        if _SCALE in state:
            return state
        usual = 0.13025 if any(name.startswith(_XL) for name in state) else 0.18215
        return {**state, **from_arrays({_SCALE: np.array(usual, np.float32)})}

    def inferred(self, state: State) -> dict[str, Any]:
        """All sizes. Raises UserError for a file that lacks some."""
        places, net = towers(state), ldm_sizes.read_unet(state)
        xl = any(place.startswith(_XL) for place in places.values())
        second = f"{_SD}{_OPEN}" in places.values()
        velocity = second and net["in_channels"] == net["out_channels"]
        found = {
            "name": "latent_diffusion",
            "image_size": 1024 if xl else 768 if velocity else 512,
            "unet": net,
            "autoencoder": ldm_sizes.read_autoencoder(state),
            "schedule": ldm_sizes.read_schedule(state) | {"prediction": "v" if velocity else "eps"},
        }
        found |= joins(net, found["autoencoder"], f"{UNET}input_blocks.0.0.weight")
        for part, place in places.items():
            cut = _CUT if place == f"{_SD}{_OPEN}" else 0
            found[part] = ldm_sizes.read_tower(state, place, cut)
        return found | ({"states": "penultimate", "null": "zeros"} if xl else {})

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """What such a file does not say."""
        notes = []
        if method["schedule"].get("prediction") == "v":
            what = "the model of 768 pixels, which predicts v; --arch=sd2-base is that of 512"
            notes.append(f"taken for {what}")
        if any(name.startswith("depth_model.") for name in state):
            notes.append("depth_model is left out: depth maps come from elsewhere")
        return notes

    def has_clips_vocabulary(self, beside: Beside, vocab_size: int) -> bool | None:
        """CLIP's sizes mean CLIP's ids."""
        return vocab_size == 49408


def towers(names: Any) -> dict[str, str]:
    """{our part: what stands before the names of a text tower}."""
    found = {}
    for part, place in (
        ("text", f"{_SD}{_HF}"),
        ("text", f"{_XL}0{_HF}"),
        ("text", f"{_SD}{_OPEN}"),
        ("text_2", f"{_XL}1{_OPEN}"),
        ("text_2", f"{_XL}0{_OPEN}"),
    ):
        if any(name.startswith(place) for name in names):
            found[part] = place
    return found


FAMILY = StableDiffusion()

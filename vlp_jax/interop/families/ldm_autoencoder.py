"""An autoencoder alone under the names of CompVis/latent-diffusion and taming-transformers
(diffusionmodules/model.py), with a KL term or a codebook: the files of sd-vae-ft-mse and of LDM.

The file exists to hold what is this family's alone.
"""

from typing import Any

import numpy as np

from vlp_jax.interop import ldm_sizes, preprocess
from vlp_jax.interop.diffusers_autoencoder import KL, SCALE, STAT, VQ, scale_of
from vlp_jax.interop.family import Beside, Family
from vlp_jax.interop.ldm_names import autoencoder_levels, autoencoder_rules
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State, from_arrays


class LdmAutoencoder(Family):
    """One autoencoder; no file says its latents' factor."""

    has = ("encoder.down.0.block.0.norm1.weight", "decoder.mid.block_1.norm1.weight")
    archs = "autoencoder"
    release = preprocess.DIFFUSERS
    methods = ("autoencoder",)

    def table(self, names: Any) -> Table:
        """For as many levels as the names have."""
        rules = autoencoder_rules("autoencoder", autoencoder_levels(names, ""), "")
        unread = (r"loss\..*", r"model_ema\..*")
        return Table("latent diffusion's autoencoder", (*rules, Rule(STAT, SCALE)), unread)

    def held(self, state: State, beside: Beside) -> State:
        """The factor too, as diffusers' class has it."""
        kind = VQ if "quantize.embedding.weight" in state else KL
        number = np.array(scale_of({"_class_name": kind}, ""), np.float32)
        return {**state, **from_arrays({SCALE: number})}

    def inferred(self, state: State) -> dict[str, Any]:
        """All sizes."""
        return {"name": "autoencoder", "autoencoder": ldm_sizes.read_autoencoder(state, "")}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Nothing here is trained against a critic."""
        method["critic_weight"] = 0.0
        return [f"the file holds no factor of its latents; {state[SCALE].read():.7g} is taken"]


FAMILY = LdmAutoencoder()

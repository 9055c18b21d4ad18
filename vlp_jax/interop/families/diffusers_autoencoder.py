"""AutoencoderKL and VQModel of Hugging Face diffusers, alone.

The file exists to hold what is this family's alone.
"""

import os
from typing import Any

from vlp_jax.interop import preprocess
from vlp_jax.interop.diffusers import renamed
from vlp_jax.interop.diffusers_autoencoder import (
    KL,
    SCALE,
    STAT,
    TABLE,
    VQ,
    read_autoencoder,
    with_scale,
    write_autoencoder,
)
from vlp_jax.interop.family import Beside, Config, Configs, Family
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import Arrays, read_json

_SIDE = 256  # pixels, where a config says none


class DiffusersAutoencoder(Family):
    """One autoencoder, and the factor of its latents."""

    has = ("encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight")
    config_name = "config.json"
    archs = "autoencoder"
    release = preprocess.DIFFUSERS
    methods = ("autoencoder",)
    library, to = "diffusers", "diffusers"
    weights_name = "diffusion_pytorch_model.safetensors"
    unwritten = ("critic", "lpips", "features")
    compared = ()

    def table(self, names: Any) -> Table:
        """Both classes'."""
        del names
        return TABLE

    def known_names(self, state: State) -> State:
        """Attentions' names of before 0.17."""
        return renamed(state)

    def held(self, state: State, beside: Beside) -> State:
        """The factor too. Raises UserError for a config without one."""
        kind = VQ if "quantize.embedding.weight" in state else KL
        return with_scale(state, {"_class_name": kind, **beside.config}, beside.file)

    def foreign(self, config: Config) -> str:
        """A config.json of another class is not of these weights."""
        said = config.get("_class_name", KL)
        return "" if said in (KL, VQ) else repr(said)

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What diffusers builds; {} without a config. Raises UserError as `read_autoencoder`."""
        if not config:
            return {}
        net = read_autoencoder(config, where)
        factor = 2 ** (len(net["widths"]) - 1)
        side = config.get("sample_size") or _SIDE
        side = min(side) if isinstance(side, list | tuple) else side
        return {"name": "autoencoder", "autoencoder": net, "image_size": side // factor * factor}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Nothing here is trained against a critic."""
        method["critic_weight"] = 0.0
        if SCALE in beside.config:
            return []
        return [f"no {SCALE} lies beside the weights; {state[SCALE].read():.7g} is the class's"]

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """config.json."""
        del pictures, tokenizer
        found = write_autoencoder(method["autoencoder"], method["numbers"][STAT])
        return {self.config_name: found | {"sample_size": method["image_size"]}}

    def rebuilt(self, configs: Configs) -> tuple[dict[str, Any], Config]:
        """What diffusers builds of the written file."""
        found = self.method(configs[self.config_name], self.config_name)
        return found | {"critic_weight": 0.0}, {}

    def spread(self, state: Arrays) -> dict[str, Arrays]:
        """The factor is in the config."""
        return {self.weights_name: {k: array for k, array in state.items() if k != SCALE}}

    def reread(self, folder: str) -> State:
        """With the factor."""
        path = os.path.join(folder, self.config_name)
        return with_scale(super().reread(folder), read_json(path), path)


FAMILY = DiffusersAutoencoder()

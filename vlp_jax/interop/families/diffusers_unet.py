"""UNet2DConditionModel, UNet2DModel and ControlNetModel of Hugging Face diffusers, each alone.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.interop.diffusers import renamed
from vlp_jax.interop.diffusers_unet import CONTROL, CROSS, PLAIN, TABLES, is_plain
from vlp_jax.interop.diffusers_unet_config import read_unet, write_unet
from vlp_jax.interop.family import Config, Configs, Family
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State

_HINT = "controlnet_cond_embedding.conv_in.weight"


class DiffusersUNet(Family):
    """One network."""

    has = (
        "conv_in.weight",
        "time_embedding.linear_1.weight",
        "down_blocks.0.resnets.0.conv1.weight",
    )
    config_name = "config.json"
    archs = "unet"
    methods = ("denoiser",)
    library, to = "diffusers", "diffusers"
    weights_name = "diffusion_pytorch_model.safetensors"
    compared = ("context_width",)

    def table(self, names: Any) -> Table:
        """Those of the class that has these names, theirs or ours."""
        if _HINT in names or "control/conv_in/kernel" in names:
            return TABLES[CONTROL]
        return TABLES[PLAIN if is_plain(names) else CROSS]

    def known_names(self, state: State) -> State:
        """Attentions' names of before 0.17."""
        return renamed(state)

    def foreign(self, config: Config) -> str:
        """A config.json of another class is not of these weights."""
        said = config.get("_class_name", CROSS)
        return "" if said in TABLES else repr(said)

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What diffusers builds; {} without a config. Raises UserError as `read_unet`."""
        if not config:
            return {}
        net = read_unet(config, where)
        width = config.get("cross_attention_dim", 1280) if net["cross"] else 0
        side = config.get("sample_size") or 64
        side = min(side) if isinstance(side, list | tuple) else side
        part = "control" if net["name"] == "controlnet" else "unet"
        return {"name": "denoiser", part: net, "context_width": width, "side": side}

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """config.json."""
        del pictures, tokenizer
        part = "control" if "control" in method else "unet"
        found = write_unet(method[part], method["context_width"])
        found |= {"sample_size": method["side"]} if part == "unet" else {}
        return {self.config_name: found}

    def rebuilt(self, configs: Configs) -> tuple[dict[str, Any], Config]:
        """What diffusers builds of the written file."""
        return self.method(configs[self.config_name], self.config_name), {}


FAMILY = DiffusersUNet()

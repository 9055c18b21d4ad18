"""Hugging Face EfficientNetModel (modeling_efficientnet.py) alone, or with a classifier's head,
which is left.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.config_values import filled
from vlp_jax.interop.efficientnet import (
    COUNTED,
    DEFAULTS,
    hf_names,
    read_efficientnet,
    write_efficientnet,
)
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import HuggingFace, left_out
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State

_NAMES, _TOP = hf_names(""), 1280  # channels of the last convolution, whatever its config says


class HfEfficientNet(HuggingFace):
    """An EfficientNet up to the mean of its last map."""

    has = ("embeddings.convolution.weight", "encoder.top_conv.weight")
    ignored = (COUNTED, r"classifier\..*")
    archs = "efficientnet"
    release = preprocess.VIT
    methods = ("encoder",)
    untold = ()
    title, model_type, processor = "EfficientNetModel", "efficientnet", "EfficientNet"
    rules = _NAMES.rules()

    def table(self, names: Any) -> Table:
        """The rules of the class, and its counters."""
        del names
        return Table(f"Hugging Face {self.title}", self.rules, self.ignored, _NAMES.counters())

    def known_names(self, state: State) -> State:
        """The classifier puts the network under `efficientnet.`."""
        return {name.removeprefix("efficientnet."): tensor for name, tensor in state.items()}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config. Raises UserError as
        interop/efficientnet.py."""
        if not config:
            return {}
        image = read_efficientnet(filled(DEFAULTS, config, where), _TOP, where)
        return {"name": "encoder", "image": image}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Heads are left."""
        classes = [name for name in state if name.startswith("classifier.")]
        return left_out(self, {name: state[name] for name in classes})

    def takes(self, method: Config) -> bool:
        """An EfficientNet alone."""
        return super().takes(method) and (method.get("image") or {}).get("name") == "efficientnet"

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """EfficientNetConfig.

        Raises:
          UserError: another last convolution, or a classifier.
        """
        image = method["image"]
        if image["top_width"] != _TOP or method["classes"]:
            raise UserError("--to=hf: EfficientNetModel has a top of 1280 and no classifier")
        scaled = image["width_multiplier"] * _TOP
        divisor = image["divisor"]
        width = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
        return write_efficientnet(image, width + divisor * (width < 0.9 * scaled))


FAMILY = HfEfficientNet()

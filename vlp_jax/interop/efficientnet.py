"""An EfficientNet's names in other libraries, and its config in transformers.

The file exists because three families hold one: transformers' alone and in ALIGN, and the PyTorch
port that the lite weights come in.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.family import Config
from vlp_jax.interop.hf import ACTIVATIONS, image_side
from vlp_jax.interop.rules import Rule

Pair = tuple[str, str]  # a convolution and its BatchNorm
COUNTED = r".*\.num_batches_tracked"
DEFAULTS: Mapping[str, Any] = {  # of EfficientNetConfig and AlignVisionConfig, transformers 5.24
    "num_channels": 3,
    "image_size": 600,
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "depth_divisor": 8,
    "kernel_sizes": (3, 3, 5, 3, 5, 5, 3),
    "in_channels": (32, 16, 24, 40, 80, 112, 192),
    "out_channels": (16, 24, 40, 80, 112, 192, 320),
    "depthwise_padding": (),
    "strides": (1, 2, 2, 2, 1, 2, 1),
    "num_block_repeats": (1, 2, 2, 3, 3, 4, 1),
    "expand_ratios": (1, 6, 6, 6, 6, 6, 6),
    "squeeze_expansion_ratio": 0.25,
    "hidden_act": "swish",
    "hidden_dim": 2560,
    "pooling_type": "mean",
    "batch_norm_eps": 1e-3,
}
_ACTIVATIONS = {**ACTIVATIONS, "swish": "silu"}
_STAGES = ("kernel_sizes", "strides", "expand_ratios", "out_channels", "num_block_repeats")


@dataclasses.dataclass(frozen=True)
class Names:
    """What stands where; `block` holds `{n}` for the number, the others are within it."""

    stem: Pair
    block: str
    expand: Pair
    depthwise: Pair
    reduce: str
    excite: str
    project: Pair
    top: Pair

    def pairs(self) -> dict[str, Pair]:
        """Convolutions and norms by our paths."""
        inside = {name: getattr(self, name) for name in ("expand", "depthwise", "project")}
        blocks = {
            f"block{{n}}/{ours}": tuple(f"{self.block}.{name}" for name in pair)
            for ours, pair in inside.items()
        }
        return {"stem": self.stem, **blocks, "top": self.top}

    def rules(self) -> tuple[Rule, ...]:
        """The part `image`."""
        found = []
        for ours, (conv, norm) in self.pairs().items():
            layout = "o i p q -> p q i o"  # depthwise: i is 1 there and here
            found += [
                Rule(f"image/{ours}/conv/kernel", f"{conv}.weight", layout),
                Rule(f"image/{ours}/bn/scale", f"{norm}.weight"),
                Rule(f"image/{ours}/bn/bias", f"{norm}.bias"),
                Rule(f"batch_stats/image/{ours}/bn/mean", f"{norm}.running_mean"),
                Rule(f"batch_stats/image/{ours}/bn/var", f"{norm}.running_var"),
            ]
        for ours, name in (("reduce", self.reduce), ("excite", self.excite)):
            path, theirs = f"image/block{{n}}/{ours}", f"{self.block}.{name}"
            found.append(Rule(f"{path}/kernel", f"{theirs}.weight", "o i p q -> p q i o"))
            found.append(Rule(f"{path}/bias", f"{theirs}.bias"))
        return tuple(found)

    def counters(self) -> tuple[Rule, ...]:
        """The step counts that PyTorch's BatchNorm carries."""
        return tuple(
            Rule(f"batch_stats/image/{ours}/bn/mean", f"{norm}.num_batches_tracked")
            for ours, (_, norm) in self.pairs().items()
        )


def hf_names(prefix: str) -> Names:
    """transformers' words."""
    return Names(
        stem=(f"{prefix}embeddings.convolution", f"{prefix}embeddings.batchnorm"),
        block=f"{prefix}encoder.blocks.{{n}}",
        expand=("expansion.expand_conv", "expansion.expand_bn"),
        depthwise=("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
        reduce="squeeze_excite.reduce",
        excite="squeeze_excite.expand",
        project=("projection.project_conv", "projection.project_bn"),
        top=(f"{prefix}encoder.top_conv", f"{prefix}encoder.top_bn"),
    )


def pooled_width(config: Config) -> int:
    """Channels that the last stage of a config that is filled up leaves to be pooled."""
    wanted, step = config["out_channels"][-1] * config["width_coefficient"], config["depth_divisor"]
    found = max(step, int(wanted + step / 2) // step * step)
    return found + step * (found < 0.9 * wanted)


def read_efficientnet(config: Config, top_width: int, where: str) -> dict[str, Any]:
    """The tower of a config that is filled up.

    Raises:
      UserError: channels that do not follow one another, another pooling or activation.
    """
    c = config
    if c["hidden_act"] not in _ACTIVATIONS:
        hint = nearest(str(c["hidden_act"]), _ACTIVATIONS)
        raise UserError(f"{where}: hidden_act {c['hidden_act']!r} is not known{hint}")
    if c["num_channels"] != 3 or c["pooling_type"] != "mean":
        raise UserError(f"{where}: only num_channels=3 and pooling_type='mean' are read")
    if list(c["in_channels"]) != [32, *c["out_channels"][:-1]]:
        wanted = "32 and then out_channels"
        raise UserError(f"{where}: in_channels {c['in_channels']} must be {wanted}")
    size = image_side(c["image_size"], where)
    if c["hidden_dim"] < math.ceil(size / 2 / math.prod(c["strides"])):
        raise UserError(f"{where}: hidden_dim {c['hidden_dim']} pools parts of the map")
    return {
        "name": "efficientnet",
        "image_size": size,
        "width_multiplier": float(c["width_coefficient"]),
        "depth_multiplier": float(c["depth_coefficient"]),
        "divisor": c["depth_divisor"],
        "stages": tuple(zip(*(c[key] for key in _STAGES), strict=True)),
        "top_width": top_width,
        "se_ratio": float(c["squeeze_expansion_ratio"]),
        "activation": _ACTIVATIONS[c["hidden_act"]],
        "padding": "even",
        "square_blocks": tuple(c["depthwise_padding"]),
        "norm_eps": float(c["batch_norm_eps"]),
    }


def write_efficientnet(image: Config, width: int) -> dict[str, Any]:
    """The inverse of `read_efficientnet`; width: channels of the pooled map."""
    stages = {key: [stage[i] for stage in image["stages"]] for i, key in enumerate(_STAGES)}
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    return {
        **stages,
        "in_channels": [32, *stages["out_channels"][:-1]],
        "num_channels": 3,
        "image_size": image["image_size"],
        "width_coefficient": image["width_multiplier"],
        "depth_coefficient": image["depth_multiplier"],
        "depth_divisor": image["divisor"],
        "depthwise_padding": list(image["square_blocks"]),
        "squeeze_expansion_ratio": image["se_ratio"],
        "hidden_act": names.get(image["activation"], image["activation"]),
        "hidden_dim": width,
        "pooling_type": "mean",
        "batch_norm_eps": image["norm_eps"],
    }

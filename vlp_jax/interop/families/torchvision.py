"""torchvision's ResNets (torchvision/models/resnet.py; also timm's of the same names): a network's
weights alone, whose classifier is left.

The file exists to hold what is this family's alone: weights without any config.
"""

import re
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.family import Beside, Config, Family
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.torchvision import RESNET

LAYERS = {  # blocks per stage
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_HEAD = ("fc.weight", "fc.bias")


def depth_of(state: State) -> int:
    """The depth of a ResNet by its blocks; 0 where no published one has so many."""
    found = [re.match(r"layer(\d)\.(\d+)\.", name) for name in state]
    blocks = {(int(m[1]), int(m[2])) for m in found if m}
    counts = tuple(sum(stage == s for stage, _ in blocks) for s in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    known = (d for d, layers in LAYERS.items() if layers == counts and (d >= 50) == bottleneck)
    return next(known, 0)


class Torchvision(Family):
    """resnet18 ... resnet152."""

    has = (
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer4.0.downsample.0.weight",
    )
    lacks = ("conv2.weight", "layer1.0.conv2.conv.weight", "attnpool.positional_embedding")
    archs = "resnet"
    release = preprocess.TORCHVISION
    library = to = "torchvision"
    methods = ("encoder",)
    alone = True

    def table(self, names: Any) -> Table:
        """One table."""
        return RESNET

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """Nothing: the weights themselves say the size."""
        return {"name": "encoder", "image": {"name": "resnet_v1", "image_size": 224}}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """The depth, by the blocks that are there; the classifier is left."""
        depth = depth_of(state)
        asked = method["image"].get("depth", depth)
        if not depth or asked != depth:
            known = f"depth {asked}" if depth else f"depth {', '.join(map(str, LAYERS))}"
            raise UserError(f"{beside.folder}: its blocks are not those of a ResNet of {known}")
        width = state["conv1.weight"].shape[0]
        fields = dict(depth=depth, width_multiplier=width / 64, pool_padding="torch")
        method["image"] |= fields
        left = [name for name in _HEAD if name in state]
        return [f"{len(left)} tensors of a head are not read ({left[0]})"] if left else []

    def takes(self, method: Config) -> bool:
        """A classic ResNet alone, with PyTorch's padding."""
        image = method.get("image") or {}
        return super().takes(method) and image.get("name") == "resnet_v1"

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """None.

        Raises:
          UserError: a ResNet that torchvision cannot build.
        """
        image = method["image"]
        usual = dict(pool_padding="torch", stem="imagenet", sk_ratio=0.0, embed_dim=0)
        for key, value in usual.items():
            if image[key] != value:
                raise UserError(
                    f"--to=torchvision: method.image.{key}={image[key]!r}, not {value!r}"
                )
        return {}

    def notes(self, method: Config, pictures: Config) -> list[str]:
        """What the file does not say and its loader has to know."""
        depth, width = method["image"]["depth"], int(64 * method["image"]["width_multiplier"])
        how = "" if width == 64 else f" of width {width}, which torchvision's have not"
        return [
            f"the file holds the trunk alone; load it with resnet{depth}(){how} and strict=False"
            " (its fc stays fresh)"
        ]

    def loading(self, arch: str, configs: Mapping[str, Any]) -> str:
        """How it is loaded."""
        return f"torchvision.models.{arch}().load_state_dict(load_file(FILE), strict=False)"


FAMILY = Torchvision()

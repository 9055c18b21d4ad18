"""The sizes of torchvision's ResNets (arXiv:1512.03385, stride on the 3x3 convolution), without
their classifiers.

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any


def resnet_tower(depth: int) -> dict[str, Any]:
    """For pictures of 224 pixels; the stem pads its pool as PyTorch does."""
    return dict(name="resnet_v1", image_size=224, depth=depth, pool_padding="torch")


ARCHS: dict[str, dict[str, Any]] = {
    "resnet18": {"image": resnet_tower(18)},  # 11,176,512 parameters
    "resnet34": {"image": resnet_tower(34)},  # 21,284,672
    "resnet50": {"image": resnet_tower(50)},  # 23,508,032
    "resnet101": {"image": resnet_tower(101)},  # 42,500,160
    "resnet152": {"image": resnet_tower(152)},  # 58,143,808
}

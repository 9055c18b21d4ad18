"""The sizes of EfficientNet (arXiv:1905.11946, Table 1 and section 3.3; L2: arXiv:1911.04252, Table
7) and of its lite form (tensorflow/tpu, efficientnet/lite).

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any

from vlp_jax.core.errors import UserError, nearest

# width, depth, side of the pictures
SIZES = {
    "B0": (1.0, 1.0, 224),
    "B1": (1.0, 1.1, 240),
    "B2": (1.1, 1.2, 260),
    "B3": (1.2, 1.4, 300),
    "B4": (1.4, 1.8, 380),
    "B5": (1.6, 2.2, 456),
    "B6": (1.8, 2.6, 528),
    "B7": (2.0, 3.1, 600),
    "L2": (4.3, 5.3, 800),
}
LITE = {
    "lite0": (1.0, 1.0, 224),
    "lite1": (1.0, 1.1, 240),
    "lite2": (1.1, 1.2, 260),
    "lite3": (1.2, 1.4, 280),
    "lite4": (1.4, 1.8, 300),
}


def efficientnet_tower(name: str, **others: Any) -> dict[str, Any]:
    """A tower of a published size, e.g. "B7" or "lite0"; others: further fields.

    Raises:
      UserError: an unknown size.
    """
    if name not in SIZES | LITE:
        raise UserError(f"EfficientNet size: unknown {name!r}{nearest(name, SIZES | LITE)}")
    width, depth, side = (SIZES | LITE)[name]
    found = dict(name="efficientnet", width_multiplier=width, depth_multiplier=depth)
    if name in LITE:
        found |= dict(fixed_ends=True, se_ratio=0.0, activation="relu6")
    return found | {"image_size": side} | others


ARCHS: dict[str, dict[str, Any]] = {
    f"EfficientNet-{name}": {"image": efficientnet_tower(name)} for name in SIZES | LITE
}

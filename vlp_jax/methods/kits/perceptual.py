"""A frozen network by whose maps pictures are compared: LPIPS, or a stand-in trained here.

The stand-in is any tower of models/, as methods/classify.py trains it: the stages of a ResNet, else
the tokens. The file exists so that a method says only how much likeness counts.
"""

from collections.abc import Mapping
from typing import Any

import jax

from vlp_jax.augment import pictures
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.losses.perceptual import map_distance
from vlp_jax.methods.base import Method, Part
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.lpips import unit_map
from vlp_jax.models.towers import make_tower

LPIPS, STAND_IN = "lpips", "features"  # parts, whose names are those of the losses too


def perceptual_part(config: Mapping[str, Any], image_size: int, where: str) -> dict[str, Part]:
    """The frozen part: `lpips`, or `features` of any other network; {} of an empty config.

    Raises:
      UserError: see make_tower.
    """
    if not config:
        return {}
    net = make_tower(config, where, image_size=image_size)
    picture = floats(1, image_size, image_size, 3)
    return {LPIPS if config["name"] == LPIPS else STAND_IN: Part(net, (picture,), frozen=True)}


def maps_of(out: Mapping[str, Any]) -> tuple[Array, ...]:
    """What is compared of a network's outputs, float32[B, h, w, C] each."""
    if "maps" in out:
        return out["maps"]
    stages = [out[name] for name in sorted(out) if name.startswith("stage")]
    return tuple(unit_map(x) for x in stages or [out["tokens"][:, :, None]])


def perceptual_distance(
    method: Method, part: str, v: Vars, x: Inputs, pair: tuple[Array, Array]
) -> Array:
    """The distance of pictures in [-1, 1] from others, the second without gradient: float32[B].

    Both are normalised by ImageNet's mean and deviation, which is LPIPS' own rule and that of
    methods/classify.py.
    """

    def maps(pixels: Array) -> tuple[Array, ...]:
        bytes_ = (pixels + 1) * 127.5
        ready = pictures.normalise(bytes_, pictures.IMAGENET_MEAN, pictures.IMAGENET_STD)
        return maps_of(method.apply(part, v, x, ready)[1])

    first, second = pair
    return map_distance(maps(first), jax.lax.stop_gradient(maps(second)))

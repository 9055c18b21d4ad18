"""Further channels that a U-Net sees beside the noisy latents: a mask with what it leaves, a
picture of low resolution, a depth or a class map (LDM, arXiv:2112.10752; Stable Diffusion 2).

The file exists so that inpainting, super-resolution and synthesis from maps are one more input.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from vlp_jax.augment.masks import random_masks
from vlp_jax.core import rng as rngs
from vlp_jax.core.fields import Field, Picture
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.schema import Chance, Range, Size
from vlp_jax.core.types import Array
from vlp_jax.diffusion import denoise
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.methods.base import Leaf, Part
from vlp_jax.methods.kits.latents import Latents

LOW = Schedule(start=1e-4, end=0.02)  # of the upscaler's low-resolution pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined(Latents):
    """Latents with further channels.

    Attributes:
      joins: `mask`: the mask (1 is painted over) and the latents of the picture without what is
        under it; `low`: the picture at the resolution of the latents; `depth`: a map, put into [-1,
        1] picture by picture; `map`: classes in three learned channels.
      mask_whole: see augment/masks.py random_masks.
      low_noise: steps of noise at most on the picture of low resolution, which the U-Net is told as
        a label (350 of Stable Diffusion's x4 upscaler); 0: none.
      map_classes: of `map`.
    """

    joins: Literal["", "mask", "low", "depth", "map"] = ""
    mask_whole: Chance = 0.25
    low_noise: Annotated[int, Range(0, LOW.times - 1)] = 0
    map_classes: Size = 182

    @property
    def joined_width(self) -> int:
        """Channels beside the latents'."""
        return {"": 0, "mask": 1 + self.coder.width, "depth": 1}.get(self.joins, 3)

    def joined_fields(self, drawing: bool = False) -> dict[str, Field]:
        """What the data must hold, or where pictures are drawn what must be given: depth or map;
        then low, image and mask too."""
        if self.joins in ("depth", "map"):
            return {self.joins: Picture(self.image_size, of="image")}
        if not drawing or not self.joins:
            return {}
        if self.joins == "low":
            return {"low": Picture(self.latent_shape[0])}
        return {name: Picture(self.image_size) for name in ("image", "mask")}

    def joined_parts(self) -> dict[str, Part]:
        """map_embed: three numbers of each class."""
        if self.joins != "map":
            return {}
        shape = self.map_classes, 3
        return {"map_embed": Part(Leaf(lambda key: jax.random.normal(key, shape)))}

    def shown(self, x: Inputs, pixels: Array | None) -> dict[str, Array]:
        """What a training batch shows in the channels, for `joined`; pixels: float32[B, S, S, 3],
        None where nothing is made of them."""
        if self.joins == "mask":
            keys = rngs.fold(x.rng, "mask")
            return {"image": pixels, "mask": random_masks(keys, self.image_size, self.mask_whole)}
        if self.joins == "low":
            shape = (len(pixels), *self.latent_shape[:2], pixels.shape[-1])
            return {"low": jnp.clip(jax.image.resize(pixels, shape, "cubic"), -1, 1)}
        return {name: x.batch[name] for name in self.joined_fields()}

    def joined(self, v: Vars, x: Inputs, given: Mapping[str, Array], size: tuple) -> Array | None:
        """The channels float32[B, h, w, n] of what is given: image float32[B, H, W, 3] in [-1, 1]
        and mask float32[B, H, W, 1]; low float32[B, h, w, 3]; depth or map uint8[B, H, W, C], whose
        first channel counts. size: (h, w). None where there are none."""
        if self.joins == "mask":
            mask, image = given["mask"], given["image"]
            left = self.mean(v, x, image * (1 - mask))
            return jnp.concatenate([nearest(mask, self.coder.factor), left], -1)
        if self.joins == "low":
            return given["low"]
        if self.joins == "depth":
            depth = given["depth"][..., :1].astype(jnp.float32)
            depth = jax.image.resize(depth, (len(depth), *size, 1), "cubic", antialias=False)
            least, most = (f(depth, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
            return 2 * (depth - least) / jnp.maximum(most - least, 1e-6) - 1
        if self.joins == "map":
            values = v.params["map_embed"][given["map"][..., 0]]  # [B, H, W, 3]
            return jax.image.resize(values, (len(values), *size, 3), "linear", antialias=False)
        return None

    def blurred(self, x: Inputs, low: Array, level: Array) -> Array:
        """A picture of low resolution under noise of level int32[B]."""
        noise = denoise.noise(rngs.fold(x.rng, "low"), low.shape[1:])
        return denoise.noised(low, noise, denoise.level(LOW, level, low))

    def levels(self, x: Inputs) -> Array:
        """Of a training batch: int32[B] from 0 to low_noise."""
        draw = lambda key: jax.random.randint(key, (), 0, self.low_noise + 1)  # noqa: E731
        return jax.vmap(draw)(rngs.fold(x.rng, "level"))


def nearest(mask: Array, factor: int) -> Array:
    """A mask for latents, by the first pixel of each place: [B, f h, f w, 1] -> [B, h, w, 1]."""
    return mask[:, ::factor, ::factor]

"""One image tower with its preprocessing: what every method that sees pictures shares.

The file exists so that a pretext task, an autoencoder or a dual encoder says only what it does with
the tower's outputs.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.augment import pictures
from vlp_jax.core.fields import Field, Picture
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Function, Method, Part
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.towers import make_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trunk(Method):
    """An image tower, the part `image`; a method adds heads and an objective.

    Attributes:
      image: tower config (models/towers.py).
      image_mean, image_std: normalisation of pictures in [0, 1], per channel.
      augment: fields of augment/pictures.py Augment, applied in training.
      dtype, remat, unroll: defaults of the tower (nn/transformer.py).
    """

    image: Mapping[str, Any]
    image_mean: tuple[float, float, float] = pictures.IMAGENET_MEAN
    image_std: tuple[float, float, float] = pictures.IMAGENET_STD
    augment: Annotated[Mapping[str, Any], pictures.Augment] = dataclasses.field(
        default_factory=dict
    )
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False

    @cached_property
    def image_tower(self) -> nn.Module:
        """The image network."""
        return self.tower("image")

    def tower(self, part: str, embed_dim: int = 0) -> nn.Module:
        """The network of the config section `part`, with this method's defaults."""
        shared = dict(embed_dim=embed_dim, dtype=self.dtype, remat=self.remat, unroll=self.unroll)
        return make_tower(getattr(self, part), f"method.{part}", **shared)

    @property
    def changes(self) -> tuple[str, ...]:
        """See Method."""
        own = build(pictures.Augment, self.augment, "method.augment")
        return () if own == pictures.Augment() else ("method.augment",)

    def fields(self) -> dict[str, Field]:
        """image, of the tower's size."""
        size = self.image_tower.image_size
        return {"image": Picture(size, key="method.image.image_size")}

    def parts(self) -> dict[str, Part]:
        """image: the tower."""
        size = self.image_tower.image_size
        return {"image": Part(self.image_tower, (floats(1, size, size, 3),))}

    @cached_property
    def image_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the tower's outputs for one picture, for the heads that take them."""
        tower, (picture,) = self.image_tower, Trunk.parts(self)["image"].inputs
        run = lambda: tower.init_with_output(jax.random.key(0), jnp.zeros(picture.shape))  # noqa: E731
        (_, out), _ = jax.eval_shape(run)
        return out

    def prepare(self, images: Array, rng: Array | None, **how: Any) -> Array:
        """uint8[B, S, S, 3] -> float32[B, S, S, 3], augmented (rng: key[B], None leaves that out)
        and normalised; how: further arguments of augment/pictures.py augment.
        """
        return self.normalised(self.augmented(images, rng, **how))

    def augmented(self, images: Array, rng: Array | None, **how: Any) -> Array:
        """The first half of `prepare`: float32[B, S, S, 3] in [0, 255]."""
        config = build(pictures.Augment, self.augment, "method.augment")
        return pictures.augment(images, config, rng, **how).astype(jnp.float32)

    def normalised(self, images: Array) -> Array:
        """The second half of `prepare`."""
        return pictures.normalise(images, self.image_mean, self.image_std)

    def run_image(self, v: Vars, x: Inputs, pixels: Array) -> tuple[Array, dict, Extra]:
        """Runs the tower on float[B, S, S, 3] pictures.

        Returns:
          (embedding float32[B, E], the tower's outputs, batch statistics that moved).
        """
        (embedding, out), moved = self.apply("image", v, x, pixels, moves=True)
        return embedding, out, moved

    def functions(self) -> dict[str, Function]:
        """features: float32[B, D], the pooled outputs of the tower, for probes and neighbours;
        pixels: float32[B, 3 S^2] in [0, 1], the baseline without any model.
        """

        def features(v: Vars, x: Inputs, _: None) -> Array:
            ready = self.prepare(x.batch["image"], x.keys)
            return self.run_image(v, x, ready)[1]["pooled"].astype(jnp.float32)

        def pixels(v: Vars, x: Inputs, _: None) -> Array:
            return rearrange(x.batch["image"], "b h w c -> b (h w c)").astype(jnp.float32) / 255

        reads = {"image": self.fields()["image"]}
        return {"features": Function(features, reads), "pixels": Function(pixels, reads)}

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one picture through the tower."""
        del text_length
        return tower_flops(self.image_tower)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """float32[shape] as a part's input."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)

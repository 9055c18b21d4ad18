"""Pictures as latents of a frozen autoencoder (arXiv:2112.10752).

The file exists so that diffusion models of every condition encode, scale, cache and decode alike.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.augment import pictures
from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Numbers, Picture
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.schema import Amount, Size, build
from vlp_jax.core.types import Array
from vlp_jax.diffusion import denoise
from vlp_jax.methods.base import STATS, Function, Method, Part
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.autoencoder import Autoencoder
from vlp_jax.models.latent_scale import LatentScale
from vlp_jax.models.towers import make_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents(Method):
    """A frozen `autoencoder` and the factor of its latents, `latent_scale`.

    Attributes:
      autoencoder: fields of models/autoencoder.py Autoencoder, with its name.
      image_size: S, pixels of a training picture.
      latent_scale: latents are multiplied by it; 0: by what the autoencoder came with.
      augment: fields of augment/pictures.py Augment, applied in training.
      frozen_dtype: of weights that do not learn.
      dtype, remat, unroll: defaults of the networks (nn/transformer.py).
    """

    autoencoder: Mapping[str, Any]
    image_size: Size = 512
    latent_scale: Amount = 0.0
    augment: Annotated[Mapping[str, Any], pictures.Augment] = dataclasses.field(
        default_factory=dict
    )
    frozen_dtype: str = "bfloat16"
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False

    image_mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)  # pictures are in [-1, 1]
    image_std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    def network(self, part: str, config: Mapping[str, Any] | None = None) -> nn.Module:
        """The network of the config section `part`, with this method's defaults."""
        shared = dict(dtype=self.dtype, remat=self.remat, unroll=self.unroll)
        found = getattr(self, part) if config is None else config
        return make_tower(found, f"method.{part}", **shared)

    @cached_property
    def coder(self) -> Autoencoder:
        """The autoencoder."""
        return self.network("autoencoder")

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a training picture's latents.

        Raises:
          UserError: pictures off the autoencoder's grid.
        """
        side, left = divmod(self.image_size, self.coder.factor)
        if left:
            wanted = f"must be a multiple of {self.coder.factor}, the autoencoder's factor"
            raise UserError(f"method.image_size={self.image_size}: {wanted}")
        return side, side, self.coder.width

    @property
    def moments(self) -> int:
        """Channels of `latents`: mean and log-variance, or what a codebook is to quantise."""
        return self.coder.width * (1 if self.coder.codes else 2)

    def picture_fields(self, **how: Any) -> dict[str, Field]:
        """image, or what a cache holds in its place, latents. how: of the picture."""
        size = self.image_size
        kept = Numbers((*self.latent_shape[:2], self.moments), optional=True)
        return {"image": Picture(size, key="method.image_size", **how), "latents": kept}

    def picture_parts(self) -> dict[str, Part]:
        """autoencoder, and latent_scale unless the config says the factor."""
        side, how = self.coder.factor, dict(frozen=True, dtype=self.frozen_dtype)
        found = {"autoencoder": Part(self.coder, (floats(1, side, side, 3),), **how)}
        if not self.latent_scale:
            found["latent_scale"] = Part(LatentScale(), (floats(1, 1, 1, 1),), frozen=True)
        return found

    def factor(self, v: Vars) -> Array:
        """float32[], of the latents."""
        known = self.latent_scale
        return jnp.float32(known) if known else v.extra[STATS]["latent_scale"]["scale"]

    def augmented(self, images: Array, rng: Array | None) -> Array:
        """uint8[B, H, W, 3] -> float32 in [-1, 1], augmented; rng: key[B], None leaves that out.
        Floats are taken as they are."""
        if images.dtype != jnp.uint8:
            return images.astype(jnp.float32)
        config = build(pictures.Augment, self.augment, "method.augment")
        return pictures.augment(images, config, rng).astype(jnp.float32) / 127.5 - 1

    def posterior(self, v: Vars, x: Inputs, pixels: Array) -> Array:
        """Its moments side by side, unscaled, of pictures in [-1, 1]: float32[B, h, w, moments]."""
        mean, logvar = self.apply("autoencoder", v, x, pixels, method="encode")
        return mean if logvar is None else jnp.concatenate([mean, logvar], -1)

    def drawn(self, v: Vars, x: Inputs, moments: Array) -> Array:
        """Scaled latents, drawn by the rows' keys: float32[B, h, w, c]."""
        if self.coder.codes:
            return moments * self.factor(v)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
        noise = denoise.noise(rngs.fold(x.rng, "posterior"), mean.shape[1:])
        return (mean + jnp.exp(0.5 * logvar) * noise) * self.factor(v)

    def mean(self, v: Vars, x: Inputs, pixels: Array) -> Array:
        """Scaled latents without a draw: float32[B, h, w, c]."""
        return self.posterior(v, x, pixels)[..., : self.coder.width] * self.factor(v)

    def decoded(self, v: Vars, x: Inputs, latent: Array) -> Array:
        """Pictures of unscaled latents, about in [-1, 1]: float32[B, H, W, 3]."""
        if self.coder.codes:
            latent = self.apply("autoencoder", v, x, latent, method="quantise").straight
        return self.apply("autoencoder", v, x, latent, method="decode").astype(jnp.float32)

    def picture_functions(self) -> dict[str, Function]:
        """encode_latents: mean and, but for a codebook, logvar; decode_latents: pictures in [-1,
        1]; both without the factor. latents: what `data cache` keeps, augmented by the row's key.
        """

        def encode(v: Vars, x: Inputs, _: None) -> dict[str, Array]:
            found = self.posterior(v, x, self.augmented(x.batch["image"], None))
            names = ("mean",) if self.coder.codes else ("mean", "logvar")
            return dict(zip(names, jnp.split(found, len(names), -1), strict=True))

        def decode(v: Vars, x: Inputs, _: None) -> Array:
            return self.decoded(v, x, x.batch["latent"])

        def latents(v: Vars, x: Inputs, _: None) -> Array:
            return self.posterior(v, x, self.augmented(x.batch["image"], x.rng))

        image = Picture(self.image_size, key="method.image_size", free=True)
        latent = Numbers(self.latent_shape, free=2)
        found = {"encode_latents": Function(encode, {"image": image})}
        found["decode_latents"] = Function(decode, {"latent": latent})
        if "latents" in self.fields():
            found["latents"] = Function(latents, {"image": self.fields()["image"]})
        return found

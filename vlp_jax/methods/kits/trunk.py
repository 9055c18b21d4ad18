"""One image tower with its preprocessing: what every method that sees pictures shares.

The file exists so that a pretext task, an autoencoder or a dual encoder says only what it does with
the tower's outputs.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.augment import pictures
from vlp_jax.core import rng as rngs
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array, EvalFn, Extra, Params
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.towers import make_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trunk:
    """An image tower; a method adds heads and an objective. Its parameters are `params["image"]`,
    its batch statistics, where it has them, `extra["batch_stats"]["image"]`.

    Attributes:
      image: tower config (models/towers.py).
      image_mean, image_std: normalisation of pictures in [0, 1], per channel.
      augment: fields of augment/pictures.py Augment, applied in training.
      dtype, remat, unroll: defaults of the tower (nn/transformer.py).
    """

    image: Mapping[str, Any]
    image_mean: tuple[float, float, float] = pictures.IMAGENET_MEAN
    image_std: tuple[float, float, float] = pictures.IMAGENET_STD
    augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
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

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """image uint8[B, S, S, 3]."""
        size = self.image_tower.image_size
        return {"image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)}

    def init_image(self, rng: Array) -> tuple[Params, Extra]:
        """Fresh parameters of the tower and {"batch_stats": {"image": ...}} where it has them;
        rng: key[].
        """
        size = self.image_tower.image_size
        found = self.image_tower.init(rng, jnp.zeros((1, size, size, 3), jnp.float32))
        stats = {"batch_stats": {"image": found["batch_stats"]}} if "batch_stats" in found else {}
        return found["params"], stats

    def prepare(self, images: Array, rng: Array | None, **how: Any) -> Array:
        """uint8[B, S, S, 3] -> float32[B, S, S, 3], augmented (rng: key[B], None leaves that out)
        and normalised; how: further arguments of augment/pictures.py augment.
        """
        config = build(pictures.Augment, self.augment, "method.augment")
        pixels = pictures.augment(images, config, rng, **how)
        return pictures.normalise(pixels, self.image_mean, self.image_std)

    def run_image(
        self, params: Params, extra: Extra, images: Array, rng: Array | None = None
    ) -> tuple[Array, dict[str, Array], Extra]:
        """Runs the tower on float[B, S, S, 3] pictures; rng: key[B] in training, None outside.

        Returns:
          (embedding float32[B, E], the tower's outputs, `extra` with updated batch statistics).
        """
        variables, rng = {"params": params["image"]}, rngs.fold(rng, "image")
        if "image" not in extra.get("batch_stats", {}):
            return *self.image_tower.apply(variables, images, rng), extra
        variables["batch_stats"] = extra["batch_stats"]["image"]
        out, state = self.image_tower.apply(variables, images, rng, mutable=["batch_stats"])
        stats = {**extra["batch_stats"], "image": state["batch_stats"]}
        return *out, {**extra, "batch_stats": stats}

    def eval_fns(self) -> dict[str, EvalFn]:
        """features: float32[B, D], the pooled outputs of the tower, for probes and neighbours;
        pixels: float32[B, 3 S^2] in [0, 1], the baseline without any model.
        """

        def features(params: Params, extra: Extra, batch: Any) -> Array:
            ready = self.prepare(batch["image"], None)
            return self.run_image(params, extra, ready)[1]["pooled"]

        def pixels(params: Params, extra: Extra, batch: Any) -> Array:
            return rearrange(batch["image"], "b h w c -> b (h w c)").astype(jnp.float32) / 255

        return {"features": features, "pixels": pixels}

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one picture through the tower."""
        del text_length
        return tower_flops(self.image_tower)

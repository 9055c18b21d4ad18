"""Two towers into one space: what CLIP, SigLIP and their relatives share (clip.md 2).

The file exists so that the methods on top hold their loss and temperature and nothing else.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array, Aux, Batch, EvalFn, Extra, Params
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.towers import make_tower
from vlp_jax.nn import pictures


def unit(x: Array) -> Array:
    """x / |x| over the last axis in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))  # torch normalises by max(|x|, 1e-12)


@dataclasses.dataclass(frozen=True)
class DualEncoder:
    """An image tower, a text tower and a learned temperature; a method adds the objective.

    Attributes:
      embed_dim: E of the shared space.
      image, text: tower configs (models/towers.py).
      image_mean, image_std: normalisation of pictures in [0, 1], per channel.
      augment: fields of nn/pictures.py Augment, applied in training.
      init_logit_scale: ln(1 / 0.07) in CLIP, ln 10 in SigLIP.
      max_logit_scale: the log value is clipped to [0, this] after every update; ln 100 in CLIP
        (clip.md 2.6).
      dtype, remat, unroll: defaults of both towers (nn/transformer.py).
    """

    embed_dim: int
    image: Mapping[str, Any]
    text: Mapping[str, Any]
    image_mean: tuple[float, float, float] = pictures.CLIP_MEAN
    image_std: tuple[float, float, float] = pictures.CLIP_STD
    augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init_logit_scale: float = math.log(1 / 0.07)
    max_logit_scale: float = math.log(100)
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False

    @cached_property
    def image_tower(self) -> nn.Module:
        """The image network."""
        return self._tower("image")

    @cached_property
    def text_tower(self) -> nn.Module:
        """The text network."""
        return self._tower("text")

    def _tower(self, side: str) -> nn.Module:
        shared = dict(
            embed_dim=self.embed_dim, dtype=self.dtype, remat=self.remat, unroll=self.unroll
        )
        return make_tower(getattr(self, side), f"method.{side}", **shared)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """image uint8[B, S, S, 3] and text int32[B, T]."""
        size = self.image_tower.image_size
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8),
            "text": jax.ShapeDtypeStruct((batch_size, self.text_tower.context_length), jnp.int32),
        }

    def init(self, rng: Array, batch: Batch) -> tuple[Params, Extra]:
        """Fresh parameters {image, text, logit_scale} and batch statistics where a tower has them;
        rng: key[].
        """
        images = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        image = self.image_tower.init(jax.random.fold_in(rng, 0), images)
        text = self.text_tower.init(
            jax.random.fold_in(rng, 1), jnp.zeros((1, batch["text"].shape[1]), jnp.int32)
        )
        extra = {"batch_stats": {"image": image["batch_stats"]}} if "batch_stats" in image else {}
        scale = jnp.float32(self.init_logit_scale)
        return {"image": image["params"], "text": text["params"], "logit_scale": scale}, extra

    def encode(
        self, params: Params, extra: Extra, batch: Batch, *, rng: Array | None, step: Array
    ) -> tuple[dict[str, Array], Aux]:
        """Unit vectors {image, text}: float32[B, E]; rng: key[B] or None."""
        image, _, extra = self.encode_image(params, extra, batch["image"], rng)
        text, _ = self.encode_text(params, batch["text"], rng)
        return {"image": image, "text": text}, Aux({}, extra)

    def project(self, params: Params) -> Params:
        """Clips the log temperature to [0, max_logit_scale] after an update."""
        if "logit_scale" not in params:
            return params
        return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0, self.max_logit_scale)}

    def encode_image(
        self, params: Params, extra: Extra, images: Array, rng: Array | None = None
    ) -> tuple[Array, dict[str, Array], Extra]:
        """Runs the image tower on uint8[B, S, S, 3] pictures.

        Returns:
          (float32[B, E] of unit norm, the tower's outputs, the extra state with updated batch
          statistics).
        """
        images = pictures.augment(
            images, build(pictures.Augment, self.augment, "method.augment"), rng
        )
        images = pictures.normalise(images, self.image_mean, self.image_std)
        variables = {"params": params["image"]}
        rng = rngs.fold(rng, "image")
        if "batch_stats" not in extra:
            embedding, out = self.image_tower.apply(variables, images, rng)
            return unit(embedding), out, extra
        variables["batch_stats"] = extra["batch_stats"]["image"]
        (embedding, out), state = self.image_tower.apply(
            variables, images, rng, mutable=["batch_stats"]
        )
        return unit(embedding), out, {**extra, "batch_stats": {"image": state["batch_stats"]}}

    def encode_text(
        self, params: Params, ids: Array, rng: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Runs the text tower on int32[B, T] ids. Returns (float32[B, E] of unit norm, the tower's
        outputs).
        """
        embedding, out = self.text_tower.apply(
            {"params": params["text"]}, ids, rngs.fold(rng, "text")
        )
        return unit(embedding), out

    def eval_fns(self) -> dict[str, EvalFn]:
        """embed_image and embed_text (unit norm) and features (before the joint projection, clip.md
        5.3).
        """
        return {
            "embed_image": lambda params, extra, batch: self.encode_image(
                params, extra, batch["image"]
            )[0],
            "embed_text": lambda params, extra, batch: self.encode_text(params, batch["text"])[0],
            "features": lambda params, extra, batch: self.encode_image(
                params, extra, batch["image"]
            )[1]["pooled"],
        }

    @property
    def ignores_padding(self) -> bool:
        """True under a causal mask with the end token pooled: CLIP, not SigLIP."""
        return self.text_tower.causal and self.text_tower.pool == "argmax"

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one image-text pair, both towers; texts of full length by default."""
        return tower_flops(self.image_tower) + tower_flops(self.text_tower, text_length)

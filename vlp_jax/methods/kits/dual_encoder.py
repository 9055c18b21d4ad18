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

from vlp_jax.augment import pictures
from vlp_jax.core import rng as rngs
from vlp_jax.core.types import Array, Aux, Batch, EvalFn, Extra, Params
from vlp_jax.losses.contrastive import unit
from vlp_jax.methods.kits.trunk import Trunk
from vlp_jax.models.flops import tower_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoder(Trunk):
    """An image tower, a text tower and a learned temperature; a method adds the objective.

    Attributes:
      embed_dim: E of the shared space.
      text: tower config (models/towers.py); the others: see Trunk.
      init_logit_scale: ln(1 / 0.07) in CLIP, ln 10 in SigLIP.
      max_logit_scale: the log value is clipped to [0, this] after every update; ln 100 in CLIP
        (clip.md 2.6).
    """

    embed_dim: int
    text: Mapping[str, Any]
    image_mean: tuple[float, float, float] = pictures.CLIP_MEAN
    image_std: tuple[float, float, float] = pictures.CLIP_STD
    init_logit_scale: float = math.log(1 / 0.07)
    max_logit_scale: float = math.log(100)

    @cached_property
    def image_tower(self) -> nn.Module:
        """The image network."""
        return self.tower("image", self.embed_dim)

    @cached_property
    def text_tower(self) -> nn.Module:
        """The text network."""
        return self.tower("text", self.embed_dim)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """image uint8[B, S, S, 3] and text int32[B, T]."""
        texts = (batch_size, self.text_tower.context_length)
        return {**super().batch_spec(batch_size), "text": jax.ShapeDtypeStruct(texts, jnp.int32)}

    def init(self, rng: Array, batch: Batch) -> tuple[Params, Extra]:
        """Fresh parameters {image, text, logit_scale} and batch statistics where a tower has them;
        rng: key[].
        """
        image, extra = self.init_image(jax.random.fold_in(rng, 0))
        text = self.text_tower.init(
            jax.random.fold_in(rng, 1), jnp.zeros((1, batch["text"].shape[1]), jnp.int32)
        )
        scale = jnp.float32(self.init_logit_scale)
        return {"image": image, "text": text["params"], "logit_scale": scale}, extra

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
        ready = self.prepare(images, rng)
        embedding, out, extra = self.run_image(params, extra, ready, rng)
        return unit(embedding), out, extra

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
        return super().eval_fns() | {
            "embed_image": lambda params, extra, batch: self.encode_image(
                params, extra, batch["image"]
            )[0],
            "embed_text": lambda params, extra, batch: self.encode_text(params, batch["text"])[0],
        }

    @property
    def ignores_padding(self) -> bool:
        """True under a causal mask with the end token pooled: CLIP, not SigLIP."""
        return self.text_tower.causal and self.text_tower.pool == "argmax"

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one image-text pair, both towers; texts of full length by default."""
        return tower_flops(self.image_tower) + tower_flops(self.text_tower, text_length)

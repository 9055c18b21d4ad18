"""Two towers into one space: what CLIP, SigLIP, ALIGN and their relatives share (clip.md 2).

The file exists so that the methods on top hold their loss and temperature and nothing else.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.augment import pictures
from vlp_jax.core.fields import Field
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array, Extra, Params
from vlp_jax.core.vectors import unit
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.texts import run_text, text_field, text_part
from vlp_jax.methods.kits.trunk import Trunk
from vlp_jax.models.flops import tower_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowers(Trunk):
    """An image tower and a text tower; a method adds the temperature and the objective.

    Attributes:
      embed_dim: E of the shared space.
      text: tower config (models/towers.py); the others: see Trunk.
    """

    embed_dim: Size
    text: Mapping[str, Any]

    @cached_property
    def image_tower(self) -> nn.Module:
        """The image network."""
        return self.tower("image", self.embed_dim)

    @cached_property
    def text_tower(self) -> nn.Module:
        """The text network."""
        return self.tower("text", self.embed_dim)

    def fields(self) -> dict[str, Field]:
        """image and text."""
        return {**super().fields(), "text": text_field(self.text_tower)}

    def parts(self) -> dict[str, Part]:
        """image and text."""
        return {**super().parts(), "text": text_part(self.text_tower)}

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Unit vectors {image, text}: float32[B, E]."""
        image, _, moved = self.encode_image(v, x)
        return {"image": image, "text": self.encode_text(v, x)[0]}, Aux({}, moved)

    def encode_image(self, v: Vars, x: Inputs) -> tuple[Array, dict[str, Array], Extra]:
        """Runs the image tower on `image`, uint8[B, S, S, 3].

        Returns:
          (float32[B, E] of unit norm, the tower's outputs, batch statistics that moved).
        """
        ready = self.prepare(x.batch["image"], x.keys)
        embedding, out, moved = self.run_image(v, x, ready)
        return unit(embedding), out, moved

    def encode_text(self, v: Vars, x: Inputs) -> tuple[Array, dict[str, Array]]:
        """Runs the text tower on `text`, int32[B, T], with `text_mask`, bool[B, T], where it takes
        one. Returns (float32[B, E] of unit norm, the tower's outputs).
        """
        embedding, out = run_text(self, v, x, self.text_tower)
        return unit(embedding), out

    def functions(self) -> dict[str, Function]:
        """embed_image and embed_text (unit norm) and features (before the joint projection, clip.md
        5.3).
        """
        fields = self.fields()
        return super().functions() | {
            "embed_image": Function(
                lambda v, x, _: self.encode_image(v, x)[0], {"image": fields["image"]}
            ),
            "embed_text": Function(
                lambda v, x, _: self.encode_text(v, x)[0], {"text": fields["text"]}
            ),
        }

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one image-text pair, both towers; texts of full length by default."""
        return tower_flops(self.image_tower) + tower_flops(self.text_tower, text_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoder(TwoTowers):
    """Two towers and a learned factor of the cosines, kept as its logarithm.

    Attributes:
      init_logit_scale: ln(1 / 0.07) in CLIP, ln 10 in SigLIP.
      max_logit_scale: the log value is clipped to [0, this] after every update; ln 100 in CLIP
        (clip.md 2.6).
    """

    image_mean: tuple[float, float, float] = pictures.CLIP_MEAN
    image_std: tuple[float, float, float] = pictures.CLIP_STD
    init_logit_scale: float = math.log(1 / 0.07)
    max_logit_scale: float = math.log(100)

    def parts(self) -> dict[str, Part]:
        """image, text, and logit_scale."""
        return {**super().parts(), "logit_scale": Part(Leaf(self.init_logit_scale))}

    def scale(self, params: Params) -> Array:
        """exp(logit_scale)."""
        return jnp.exp(jnp.float32(params["logit_scale"]))

    def project(self, params: Params) -> Params:
        """Clips the log temperature to [0, max_logit_scale] after an update."""
        if "logit_scale" not in params:
            return params
        return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0, self.max_logit_scale)}

"""CLIP from frozen encoders: two networks that came trained, two small heads that learn to meet
(keras.io "Natural language image search with a dual encoder"; the Flickr30k exercise).

The file exists as the smallest contrastive training there is, and because what never changes can
be computed once (`data cache`) and read back.
"""

import dataclasses
import math
from functools import cached_property
from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Field, Numbers
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Range, Rate
from vlp_jax.core.types import Array, Extra, Params
from vlp_jax.core.vectors import unit
from vlp_jax.losses.contrastive import multi_positive_contrastive, softmax_contrastive
from vlp_jax.losses.soft_targets import soft_targets
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.dual_encoder import TwoTowers
from vlp_jax.methods.kits.texts import run_text
from vlp_jax.methods.kits.trunk import Trunk, floats
from vlp_jax.models.residual_head import ResidualHead

TARGETS = ("pairs", "group", "soft")
FEATURES = ("image_features", "text_features")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenCLIP(TwoTowers):
    """Frozen `image` and `text`, which come from `init_from`, and the heads on what they pool.

    Attributes:
      embed_dim: E of the shared space, and the width of both heads; the others: see TwoTowers.
      frozen_encoders: False trains them too, as the public notebook does.
      text_length: tokens of a text; 0: as many as the text network has places for.
      head_dropout, head_bias: of models/residual_head.py.
      targets: `pairs`, CLIP's loss, where captions of one picture are no negatives if the field
        `group` is in the batch; `group`: all of one picture are targets alike; `soft`: what is
        alike within both modalities, on vectors without unit norm (losses/soft_targets.py).
      stop_targets: soft targets do not learn.
      init_logit_scale: of the factor exp(this) on the cosines, ln(1 / temperature); 0: plain ones.
      learn_scale: it learns; else it stays.
    """

    embed_dim: int = 256
    frozen_encoders: bool = True
    text_length: Annotated[int, Range(0)] = 0
    head_dropout: Rate = 0.1
    head_bias: bool = True
    targets: str = "pairs"
    stop_targets: bool = False
    learn_scale: bool = False
    init_logit_scale: float = math.log(1 / 0.07)

    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises UserError for unknown targets."""
        if self.targets not in TARGETS:
            hint = nearest(self.targets, TARGETS)
            raise UserError(f"method.targets: unknown {self.targets!r}{hint}")

    @cached_property
    def image_tower(self) -> nn.Module:
        """The image network, without a projection of its own."""
        return self.tower("image")

    @cached_property
    def text_tower(self) -> nn.Module:
        """The text network, without a projection of its own."""
        return self.tower("text")

    @cached_property
    def widths(self) -> dict[str, int]:
        """What each network pools: {image_features: D, text_features: D}."""
        text = self.text_tower
        ids = jnp.zeros((1, 1), jnp.int32)
        (pooled, _), _ = jax.eval_shape(lambda: text.init_with_output(jax.random.key(0), ids))
        found = self.image_shapes["pooled"].shape[1], pooled.shape[1]
        return dict(zip(FEATURES, found, strict=True))

    def fields(self) -> dict[str, Field]:
        """image and text, or what a cache holds in their place, image_features and text_features:
        float32[B, D]; group int32[B], the number of the pair's picture, where data.fields.group
        says where that is.
        """
        found = super().fields()
        if self.text_length:
            found["text"] = dataclasses.replace(found["text"], length=self.text_length, key="")
        if self.frozen_encoders:
            widths = self.widths.items()
            found |= {name: Numbers((width,), optional=True) for name, width in widths}
        return found | {"group": Numbers((), "int32", optional=self.targets != "group")}

    def parts(self) -> dict[str, Part]:
        """image, text, image_head, text_head and, where it is learned, logit_scale."""
        found = super().parts()
        for name in ("image", "text"):
            found[name] = dataclasses.replace(found[name], frozen=self.frozen_encoders)
        head = ResidualHead(self.embed_dim, self.head_dropout, self.head_bias)
        heads = zip(("image_head", "text_head"), self.widths.values(), strict=True)
        found |= {name: Part(head, (floats(1, width),)) for name, width in heads}
        scale = {"logit_scale": Part(Leaf(self.init_logit_scale))}
        return found | (scale if self.learn_scale else {})

    def scale(self, params: Params) -> Array:
        """exp of the log factor, learned or fixed."""
        return jnp.exp(self._logit_scale(params))

    def _logit_scale(self, params: Params) -> Array:
        fixed = jnp.float32(self.init_logit_scale)
        return jnp.float32(params["logit_scale"]) if self.learn_scale else fixed

    def project(self, params: Params) -> Params:
        """Clips the log factor to [0, ln 100] after an update."""
        if "logit_scale" not in params:
            return params
        return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0, math.log(100))}

    def image_features(self, v: Vars, x: Inputs) -> tuple[Array, Extra]:
        """(float32[B, D] of the image network, or as they lie in the batch; batch statistics that
        moved)."""
        if "image_features" in x.batch:
            return x.batch["image_features"], {}
        ready = self.prepare(x.batch["image"], x.keys)
        features, _, moved = self.run_image(v, x, ready)
        return features.astype(jnp.float32), moved

    def text_features(self, v: Vars, x: Inputs) -> Array:
        """float32[B, D] of the text network, or as they lie in the batch."""
        if "text_features" in x.batch:
            return x.batch["text_features"]
        return run_text(self, v, x, self.text_tower)[0].astype(jnp.float32)

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """{image, text}: float32[B, E], of unit norm but for soft targets."""
        features, moved = self.image_features(v, x)
        rows = {
            "image": self.apply("image_head", v, x, features),
            "text": self.apply("text_head", v, x, self.text_features(v, x)),
        }
        return rows if self.targets == "soft" else jax.tree.map(unit, rows), Aux({}, moved)

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The loss against `targets`, over the whole batch."""
        scale, pair = self._logit_scale(v.params), (rows["image"], rows["text"])
        group = x.batch.get("group")
        if self.targets == "soft":
            loss, metrics = soft_targets(*pair, scale, self.stop_targets)
        elif self.targets == "group":
            loss, metrics = multi_positive_contrastive(*pair, scale, group)
        else:
            loss, metrics = softmax_contrastive(*pair, scale, duplicates=group)
        return loss, Aux({**metrics, "logit_scale": jnp.exp(scale)})

    def functions(self) -> dict[str, Function]:
        """embed_image, embed_text: float32[B, E] of unit norm; image_features, text_features:
        float32[B, D], what the encoders pool and `data cache` keeps; features, pixels: see Trunk.
        """
        fields = self.fields()
        image, text = ({name: fields[name]} for name in ("image", "text"))

        def embed_image(v: Vars, x: Inputs, _: None) -> Array:
            return unit(self.apply("image_head", v, x, self.image_features(v, x)[0]))

        def embed_text(v: Vars, x: Inputs, _: None) -> Array:
            return unit(self.apply("text_head", v, x, self.text_features(v, x)))

        return Trunk.functions(self) | {
            "embed_image": Function(embed_image, image),
            "embed_text": Function(embed_text, text),
            "image_features": Function(lambda v, x, _: self.image_features(v, x)[0], image),
            "text_features": Function(lambda v, x, _: self.text_features(v, x), text),
        }

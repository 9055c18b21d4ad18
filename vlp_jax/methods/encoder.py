"""One network alone: a ViT, an EfficientNet or a BERT that was released without a second tower or
an objective, and the linear classifier that came with it.

The file exists so that such a network converts, loads and embeds like every model, and other
methods take it by `init_from` or as a frozen part.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Picture
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.core.vectors import unit
from vlp_jax.losses.perceptual import map_distance
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.texts import run_text, text_field, text_part
from vlp_jax.methods.kits.trunk import Trunk
from vlp_jax.models.bert import BERT
from vlp_jax.models.classifier import Classifier
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.lpips import LPIPS
from vlp_jax.models.vit import ViT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder(Trunk):
    """One part, `image` or `text`, and nothing that trains it.

    Attributes:
      image, text: the one network (models/towers.py); the others: see Trunk.
      classes: C of a linear classifier on what a picture's network pools, the part `head` as in
        methods/classify.py; 0 has none.
      head_bias: it has a bias. The Inception Score is one of logits without.
    """

    image: Mapping[str, Any] | None = None
    text: Mapping[str, Any] | None = None
    classes: int = 0
    head_bias: bool = True

    def __post_init__(self) -> None:
        """Raises UserError unless there is one of image and text."""
        if (self.image is None) == (self.text is None):
            raise UserError("method: encoder is one network, method.image or method.text")

    @property
    def side(self) -> str:
        """image or text."""
        return "text" if self.image is None else "image"

    @cached_property
    def text_tower(self) -> nn.Module:
        """The text network."""
        return self.tower("text")

    def fields(self) -> dict[str, Field]:
        """image or text."""
        if self.side == "image":
            return super().fields()
        return {"text": text_field(self.text_tower, cut=False)}

    def parts(self) -> dict[str, Part]:
        """The network."""
        if self.side == "image":
            head = Classifier(self.classes, bias=self.head_bias)
            head = {"head": Part(head, (self.image_shapes["pooled"],))} if self.classes else {}
            return {**super().parts(), **head}
        return {"text": text_part(self.text_tower)}

    def encode(self, v: Vars, x: Inputs) -> tuple[Any, Aux]:
        """Raises UserError: nothing here trains."""
        raise UserError(
            "method.name=encoder: a network alone has no loss; name its folder in init_from of a"
            " method that has one"
        )

    def run(self, v: Vars, x: Inputs, net: nn.Module | None = None) -> tuple[Array, dict]:
        """The network, or another form of it, on the field: (embedding float32[B, E], outputs)."""
        if self.side == "image":
            return self.apply("image", v, x, self.prepare(x.batch["image"], x.keys), net=net)
        return run_text(self, v, x, net or self.text_tower)

    def functions(self) -> dict[str, Function]:
        """features: float32[B, D], what the network pools; embed_image or embed_text: float32[B,
        E] of unit norm; tokens: float32[B, T, D], the last states; pooler: float32[B, D] where the
        network has one; classify: logits float32[B, C] where there is a classifier; distance:
        float32[B], of LPIPS, how unlike the pictures `image` and `other` look, of any one size.
        """
        net, whole = self.parts()[self.side].net, None
        if isinstance(net, ViT):  # its own tokens lack the last norm
            whole = net.clone(pool="none", cls_token=net.has_cls)
        last = "tokens" if whole is None else "pooled"
        found = {
            "features": lambda v, x, _: self.run(v, x)[1]["pooled"],
            f"embed_{self.side}": lambda v, x, _: unit(self.run(v, x)[0]),
            "tokens": lambda v, x, _: self.run(v, x, whole)[1][last],
        }
        if isinstance(net, ViT | BERT) and net.pooler:
            found["pooler"] = lambda v, x, _: self.run(v, x)[1]["pooler"]
        if self.classes:
            found["classify"] = lambda v, x, _: self.apply(
                "head", v, x, self.run(v, x)[1]["pooled"]
            )
        made = {name: Function(run, self.fields()) for name, run in found.items()}
        if isinstance(net, LPIPS):
            both = dict.fromkeys(("image", "other"), Picture(net.image_size, free=True))
            made["distance"] = Function(self.distance, both)
        return made

    def distance(self, v: Vars, x: Inputs, _: None = None) -> Array:
        """See `functions`."""
        ready = (self.normalised(x.batch[name]) for name in ("image", "other"))
        return map_distance(*(self.apply("image", v, x, one)[1]["maps"] for one in ready))

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one picture or text."""
        if self.side == "image":
            return super().flops()
        return tower_flops(self.text_tower, text_length)

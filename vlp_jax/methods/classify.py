"""Classification: supervised training, fine-tuning and linear probing of any image tower (recipes
of MAE, arXiv:2111.06377 appendix A, and SimCLR, arXiv:2002.05709 appendix B).

The file exists so that learning from labels is a method like the others: the same loop starts from
scratch, from another method's tower (`init_from=RUN:image/.*`) or beside a frozen one.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from vlp_jax.augment import mixing
from vlp_jax.augment.mixing import Mixing
from vlp_jax.core.fields import Field, Label
from vlp_jax.core.inputs import Aux, Inputs, Vars, lay
from vlp_jax.core.schema import Amount, Range, Rate, build
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.varied import Varied
from vlp_jax.models.classifier import Classifier
from vlp_jax.models.projection import ProjectionHead


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Varied):
    """A tower, a linear head, softmax cross-entropy. Labels are int32[B] in [0, num_classes).

    Attributes:
      num_classes: C; the others beside these: see Varied and Trunk.
      linear: only the head learns: the tower is frozen and runs as in evaluation, without dropout
        and with its running statistics (the linear probe).
      head_norm, head_init_std: see models/classifier.py.
      projection: fields of models/projection.py ProjectionHead, SimCLR's `head`.
      ft_proj_selector: layers of it between tower and classifier, 1 in SimCLRv2's fine-tuning.
      label_smoothing: share of the target spread over all classes.
      mixing: fields of augment/mixing.py Mixing.
    """

    num_classes: Annotated[int, Range(2)]
    linear: bool = False
    head_norm: str = "none"
    head_init_std: Amount = 0.01
    projection: Annotated[Mapping[str, Any], ProjectionHead] = dataclasses.field(
        default_factory=dict
    )
    ft_proj_selector: int = 0
    label_smoothing: Rate = 0.0
    mixing: Annotated[Mapping[str, Any], Mixing] = dataclasses.field(default_factory=dict)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Tower and projection, for a linear probe."""
        return (*super().frozen, *(("head/layer.*",) if self.linear else ()))

    @cached_property
    def head(self) -> Classifier:
        """The linear classifier and the layers of the projection that it sits on."""
        layers = None
        if self.ft_proj_selector:
            how = {"dtype": self.dtype, **self.projection, "stop": self.ft_proj_selector}
            layers = build(ProjectionHead, how, "method.projection")
        norm = self.head_norm, self.head_init_std
        return Classifier(self.num_classes, *norm, layers, self.linear)

    def fields(self) -> dict[str, Field]:
        """image and label."""
        label = Label(self.num_classes, key="method.num_classes")
        return {**super().fields(), "label": label}

    def parts(self) -> dict[str, Part]:
        """image and head."""
        (tower,) = super().parts().values()
        tower = dataclasses.replace(tower, frozen=self.linear)
        return {"image": tower, "head": Part(self.head, (self.image_shapes["pooled"],))}

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """{"logits", "target"}: float32[B, C], the target's rows sum to one.

        A picture is erased before it is mixed, so its partner shows through its noise.
        """
        how = build(Mixing, self.mixing, "method.mixing")
        images = mixing.erase(self.prepare(x.batch["image"], x.keys), how.erase, x.keys)
        target = jax.nn.one_hot(x.batch["label"], self.num_classes)
        target = optax.smooth_labels(target, self.label_smoothing if x.train else 0.0)
        images, target = mixing.mix(images, target, how, x.keys)
        logits, moved = self.classify(v, x, images)
        return {"logits": logits, "target": target}, Aux({}, moved)

    def classify(self, v: Vars, x: Inputs, images: Array) -> tuple[Array, Extra]:
        """Logits float32[B, C] of normalised pictures, and batch statistics that moved."""
        _, out, moved = self.run_image(v, x, images)
        logits, more = self.apply("head", v, x, out["pooled"], moves=True)
        return logits, lay(more, moved)

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """Mean softmax cross-entropy; top1 counts the class of the largest target share."""
        logits, target = rows["logits"], rows["target"]
        loss = x.share(optax.softmax_cross_entropy(logits, target))
        return loss, Aux({"top1": x.share(logits.argmax(1) == target.argmax(1))})

    def functions(self) -> dict[str, Function]:
        """features, and classify: logits float32[B, C]."""

        def classify(v: Vars, x: Inputs, _: None) -> Array:
            ready = self.prepare(x.batch["image"], x.keys)
            return self.classify(v, x, ready)[0].astype(jnp.float32)

        found = super().functions()
        return found | {"classify": Function(classify, found["features"].reads)}

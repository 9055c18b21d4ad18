"""Classification: supervised training, fine-tuning and linear probing of any image tower (recipes
of MAE, arXiv:2111.06377 appendix A, and SimCLR, arXiv:2002.05709 appendix B).

The file exists so that learning from labels is a method like the others: the same loop starts from
scratch, from another method's tower (`init_from=RUN:image/.*`) or beside a frozen one.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlp_jax.augment import mixing, pictures
from vlp_jax.augment.rand_augment import RandAugment, rand_augment
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array, Aux, Batch, EvalFn, Extra, Params
from vlp_jax.methods.base import Method
from vlp_jax.methods.kits.trunk import Trunk
from vlp_jax.models.classifier import Classifier
from vlp_jax.models.projection import ProjectionHead


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Trunk, Method):
    """A tower, a linear head, softmax cross-entropy. Labels are int32[B] in [0, num_classes).

    Attributes:
      num_classes: C; the others beside these: see Trunk.
      linear: only the head learns: the tower is frozen and runs as in evaluation, without dropout
        and with its running statistics (the linear probe).
      head_norm, head_init_std: see models/classifier.py.
      projection: fields of models/projection.py ProjectionHead, SimCLR's `head`.
      ft_proj_selector: layers of it between tower and classifier, 1 in SimCLRv2's fine-tuning.
      label_smoothing: share of the target spread over all classes.
      rand_augment: fields of augment/rand_augment.py RandAugment.
      mixing: fields of augment/mixing.py Mixing.
    """

    num_classes: int
    linear: bool = False
    head_norm: str = "none"
    head_init_std: float = 0.01
    projection: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ft_proj_selector: int = 0
    label_smoothing: float = 0.0
    rand_augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mixing: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Tower and projection, for a linear probe."""
        return ("image/.*", "head/layer.*") if self.linear else ()

    @cached_property
    def head(self) -> Classifier:
        """The linear classifier and the layers of the projection that it sits on."""
        layers = None
        if self.ft_proj_selector:
            how = {"dtype": self.dtype, **self.projection, "stop": self.ft_proj_selector}
            layers = build(ProjectionHead, how, "method.projection")
        norm = self.head_norm, self.head_init_std
        return Classifier(self.num_classes, *norm, layers, self.linear)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """image uint8[B, S, S, 3] and label int32[B]."""
        return {
            **super().batch_spec(batch_size),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def init(self, rng: Array, batch: Batch) -> tuple[Params, Extra]:
        """Fresh {image, head} and batch statistics where they have them; rng: key[]."""
        image, extra = self.init_image(jax.random.fold_in(rng, 0))
        width = jax.eval_shape(lambda: self._pooled(image, extra)).shape[1]
        head = self.head.init(jax.random.fold_in(rng, 1), jnp.zeros((1, width)), False)
        stats = {**extra.get("batch_stats", {})}
        if "batch_stats" in head:
            stats["head"] = head["batch_stats"]
        params = {"image": image, "head": head["params"]}
        return params, {**extra, "batch_stats": stats} if stats else extra

    def _pooled(self, image: Params, extra: Extra) -> Array:
        size = self.image_tower.image_size
        return self.run_image({"image": image}, extra, jnp.zeros((1, size, size, 3)))[1]["pooled"]

    def prepare(self, images: Array, rng: Array | None) -> Array:
        """uint8[B, S, S, 3] -> float32[B, S, S, 3]: crop and flip, RandAugment, normalised."""
        crop = build(pictures.Augment, self.augment, "method.augment")
        how = build(RandAugment, self.rand_augment, "method.rand_augment")
        fill = tuple(255 * channel for channel in self.image_mean)
        changed = rand_augment(pictures.augment(images, crop, rng), how, rng, fill)
        return pictures.normalise(changed, self.image_mean, self.image_std)

    def encode(
        self, params: Params, extra: Extra, batch: Batch, *, rng: Array | None, step: Array
    ) -> tuple[dict[str, Array], Aux]:
        """{"logits", "target"}: float32[B, C], the target's rows sum to one; rng: key[B] or None.

        A picture is erased before it is mixed, so its partner shows through its noise.
        """
        how = build(mixing.Mixing, self.mixing, "method.mixing")
        images = mixing.erase(self.prepare(batch["image"], rng), how.erase, rng)
        target = jax.nn.one_hot(batch["label"], self.num_classes)
        target = optax.smooth_labels(target, self.label_smoothing if rng is not None else 0.0)
        images, target = mixing.mix(images, target, how, rng)
        logits, extra = self.classify(params, extra, images, rng)
        return {"logits": logits, "target": target}, Aux({}, extra)

    def classify(
        self, params: Params, extra: Extra, images: Array, rng: Array | None = None
    ) -> tuple[Array, Extra]:
        """Logits float32[B, C] of normalised pictures, and `extra` with updated statistics."""
        tower_rng = None if self.linear else rng
        pooled, extra = self.run_image(params, extra, images, tower_rng)[1:]
        variables, stats = {"params": params["head"]}, extra.get("batch_stats", {})
        if "head" not in stats:
            return self.head.apply(variables, pooled["pooled"], False), extra
        variables["batch_stats"] = stats["head"]
        run = (variables, pooled["pooled"], rng is not None)
        logits, state = self.head.apply(*run, mutable=["batch_stats"])
        stats = {**stats, "head": state["batch_stats"]}
        return logits, {**extra, "batch_stats": stats}

    def objective(
        self, params: Params, representations: dict[str, Array], batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """Mean softmax cross-entropy; top1 counts the class of the largest target share."""
        logits, target = representations["logits"], representations["target"]
        loss = optax.softmax_cross_entropy(logits, target).mean()
        return loss, {"top1": (logits.argmax(1) == target.argmax(1)).mean()}

    def eval_fns(self) -> dict[str, EvalFn]:
        """features, and classify: logits float32[B, C]."""

        def classify(params: Params, extra: Extra, batch: Batch) -> Array:
            return self.classify(params, extra, self.prepare(batch["image"], None))[0]

        return {**super().eval_fns(), "classify": classify}

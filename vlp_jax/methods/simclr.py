"""SimCLR: two random views of a picture find each other among all views of the batch
(arXiv:2002.05709; v2, arXiv:2006.10029; reference: google-research/simclr).

Under `accumulate` the loss still sees every view, but BatchNorm would normalise by each micro-batch
and is refused without `accumulate_batchnorm=micro`; without BatchNorm accumulation is exact. The
file exists to hold what makes a trunk SimCLR.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Field, Picture
from vlp_jax.core.inputs import Aux, Inputs, Vars, lay
from vlp_jax.core.schema import build
from vlp_jax.core.types import Array
from vlp_jax.core.vectors import unit
from vlp_jax.losses.contrastive import nt_xent
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.trunk import Trunk
from vlp_jax.models.projection import ProjectionHead

LOSS_SCALES = {"sum": 2.0, "mean": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLR(Trunk):
    """The trunk, a projection head `params["head"]` and NT-Xent over the global batch.

    Attributes:
      head: fields of models/projection.py ProjectionHead.
      temperature: 0.1 on ImageNet, 0.5 on CIFAR.
      loss_scale: `sum` of both directions as the official code, or their `mean`, equation 1.
      augment_branches: 2 augments both views, 1 leaves the second as it came (figure 5).
      canvas: pixels of a side of the training pictures, above the tower's, so that crops are cut
        from the whole picture, which data.image.crop=squash fits in; 0: as the tower's.
      ft_proj_selector: stage of the head that `features` returns: 0 is h, the tower's own, 1 after
        the head's first layer (SimCLRv2), -1 the last.
      image_mean, image_std: pictures in [0, 1] are not standardised.
    """

    coupled: ClassVar[bool] = True
    head: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    temperature: float = 0.1
    loss_scale: str = "sum"
    augment_branches: int = 2
    canvas: int = 0
    ft_proj_selector: int = 0
    image_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    image_std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"method.temperature={self.temperature}: must be above 0")
        if self.loss_scale not in LOSS_SCALES:
            hint = nearest(self.loss_scale, LOSS_SCALES)
            raise UserError(f"method.loss_scale: unknown {self.loss_scale!r}{hint}")
        if self.augment_branches not in (1, 2):
            raise UserError(f"method.augment_branches={self.augment_branches}: must be 1 or 2")
        if self.canvas and self.canvas < self.image_tower.image_size:
            least = f"must be 0 or at least the tower's {self.image_tower.image_size}"
            raise UserError(f"method.canvas={self.canvas}: {least}")

    def fields(self) -> dict[str, Field]:
        """image; with a canvas its side is that, and image_aspect float32[B] is width over height
        of the picture before it was squashed.
        """
        if not self.canvas:
            return super().fields()
        return {"image": Picture(self.canvas, tell=("aspect",), whole=True)}

    @cached_property
    def projection(self) -> ProjectionHead:
        """The head's network."""
        return build(ProjectionHead, {"dtype": self.dtype, **self.head}, "method.head")

    def parts(self) -> dict[str, Part]:
        """image and head."""
        return {**super().parts(), "head": Part(self.projection, (self.image_shapes["pooled"],))}

    def views(self, x: Inputs) -> Array:
        """Two views of each picture of a batch, one after the other, so that a device keeps its
        own. float32[2B, S, S, 3]
        """
        how = {"size": self.image_tower.image_size, "aspect": x.batch.get("image_aspect", 1.0)}
        second = x.fold("second").keys if self.augment_branches == 2 else None
        pair = [
            self.prepare(x.batch["image"], key, **how) for key in (x.fold("first").keys, second)
        ]
        return rearrange(jnp.stack(pair, 1), "b two h w c -> (b two) h w c")

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Unit vectors {first, second}: float32[B, E], from one pass over all 2B views."""
        images = self.views(x)  # [2B, S, S, 3]
        keys = jax.vmap(lambda key: jax.random.split(key))(x.rng).reshape(-1)  # [2B]
        x = x.replace(rng=keys)
        _, out, moved = self.run_image(v, x, images)
        stages, more = self.apply("head", v, x, out["pooled"], moves=True)
        rows = rearrange(unit(stages[-1]), "(b two) e -> two b e", two=2)
        return {"first": rows[0], "second": rows[1]}, Aux({}, lay(more, moved))

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """NT-Xent over the 2B unit vectors {first, second}: float32[B, E]; at chance ln(2B - 1)
        times 2 for a sum.

        Returns:
          (float32[] loss; metrics accuracy: the partner is the nearest of all others, and entropy
          of the softmax over them, nats).

        Raises:
          UserError: a batch of one picture.
        """
        both = jnp.concatenate([rows["first"], rows["second"]])  # [2B, E]
        if len(both) < 4:
            raise UserError("batch_size=1: a contrastive loss needs at least 2 pictures")
        scale = jnp.float32(math.log(1 / self.temperature))
        loss, metrics = nt_xent(both, scale)
        # With p = softmax(l), entropy = lse(l) - p . l, and p . l is the derivative of lse by the
        # logits' log scale; the positives' logit drops out of the difference.
        slope = jax.grad(lambda s: nt_xent(jax.lax.stop_gradient(both), s)[0])(scale)
        entropy = jax.lax.stop_gradient(loss - slope)
        return LOSS_SCALES[self.loss_scale] * loss, Aux({**metrics, "entropy": entropy})

    def functions(self) -> dict[str, Function]:
        """As Trunk's, but features: the stage of the head that `ft_proj_selector` names; and
        projection: float32[B, E], the last one.

        Raises:
          UserError: a stage that the head lacks.
        """
        reads = {"image": Picture(self.image_tower.image_size)}  # without the canvas
        pixels = dataclasses.replace(super().functions()["pixels"], reads=reads)

        def stage(number: int) -> Function:
            def run(v: Vars, x: Inputs, _: None) -> Array:
                ready = self.prepare(x.batch["image"], x.keys)
                stages = self.apply("head", v, x, self.run_image(v, x, ready)[1]["pooled"])
                if not -1 <= number < len(stages):
                    most = f"must be -1 (last) or 0 to {len(stages) - 1}"
                    raise UserError(f"method.ft_proj_selector={number}: {most}")
                return stages[number].astype(jnp.float32)

            return Function(run, reads)

        named = {"features": self.ft_proj_selector, "projection": -1}
        return {"pixels": pixels, **{name: stage(number) for name, number in named.items()}}

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one picture: both of its views, without the head."""
        return 2 * super().flops(text_length)

"""ALIGN: two towers on noisy alt-texts under a learned temperature (arXiv:2102.05918; reference:
kakaobrain/coyo-align, transformers AlignModel).

The file exists to hold what makes the dual encoder ALIGN: a temperature that divides, smoothed
targets, and a sum of both directions.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Rate
from vlp_jax.core.types import Array, Params
from vlp_jax.losses.contrastive import softmax_contrastive
from vlp_jax.methods.base import Leaf, Part
from vlp_jax.methods.kits.dual_encoder import TwoTowers

REDUCTIONS = {"sum": 2.0, "mean": 1.0}  # factors of the mean of both directions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ALIGN(TwoTowers):
    """The two towers of methods/kits/dual_encoder.py under ALIGN's loss.

    Attributes:
      image_mean, image_std: pictures in [-1, 1].
      init_temperature: cosines are divided by it; it starts at 1 and ends near 1/64 in the paper.
      learn_temperature: False keeps it (Table 8).
      label_smoothing: share of the target that is spread over the batch.
      reduction: `sum` of both directions (the paper, equations 1 and 2), or `mean` (transformers).
    """

    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    init_temperature: float = 1.0
    learn_temperature: bool = True
    label_smoothing: Rate = 0.1
    reduction: str = "sum"

    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises UserError for an unknown reduction, or a temperature that is not positive."""
        if self.reduction not in REDUCTIONS:
            hint = nearest(self.reduction, REDUCTIONS)
            raise UserError(f"method.reduction: unknown {self.reduction!r}{hint}")
        if not self.init_temperature > 0:
            raise UserError(f"method.init_temperature={self.init_temperature}: must be above 0")

    def parts(self) -> dict[str, Part]:
        """image, text and, where it learns, temperature."""
        learned = {"temperature": Part(Leaf(self.init_temperature))}
        return {**super().parts(), **(learned if self.learn_temperature else {})}

    def scale(self, params: Params) -> Array:
        """1 / temperature."""
        return 1 / jnp.float32(params.get("temperature", self.init_temperature))

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """Both directions' smoothed cross-entropies over the global batch of unit vectors {image,
        text}: float32[B, E]; `unsmoothed_loss` is the mean of both against the pairs alone."""
        scale = self.scale(v.params)
        loss, metrics = softmax_contrastive(
            rows["image"], rows["text"], jnp.log(scale), label_smoothing=self.label_smoothing
        )
        return REDUCTIONS[self.reduction] * loss, Aux({**metrics, "temperature": 1 / scale})

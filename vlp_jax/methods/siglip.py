"""SigLIP: two towers trained with a pairwise sigmoid loss (arXiv:2303.15343; reference: big_vision,
open_clip).

The file exists to hold what makes the dual encoder SigLIP: its loss and bias.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp

from vlp_jax.core.types import Array, Batch, Extra, Params
from vlp_jax.losses.contrastive import sigmoid_contrastive
from vlp_jax.methods.base import Method
from vlp_jax.methods.kits.dual_encoder import DualEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigLIP(DualEncoder, Method):
    """The dual encoder of methods/kits/dual_encoder.py under the sigmoid loss.

    Attributes:
      image_mean, image_std: SigLIP maps pictures to [-1, 1].
      init_logit_scale, init_logit_bias: ln 10 and -10 in the paper (section 3.2).
      max_logit_scale: ln 1000; the paper has no clamp, this one only stops a runaway.
    """

    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    init_logit_scale: float = math.log(10)
    init_logit_bias: float = -10.0
    max_logit_scale: float = math.log(1000)

    batch_coupled: ClassVar[bool] = True

    def init(self, rng: Array, batch: Batch) -> tuple[Params, Extra]:
        """Fresh parameters {image, text, logit_scale, logit_bias}."""
        params, extra = DualEncoder.init(self, rng, batch)
        return {**params, "logit_bias": jnp.float32(self.init_logit_bias)}, extra

    def objective(
        self, params: Params, representations: dict[str, Array], batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """Sigmoid contrastive loss over the global batch of unit vectors {image, text}: float32[B,
        E].
        """
        scale, bias = params["logit_scale"], params["logit_bias"]
        loss, metrics = sigmoid_contrastive(
            representations["image"], representations["text"], scale, bias
        )
        return loss, {**metrics, "logit_scale": jnp.exp(scale), "logit_bias": bias}

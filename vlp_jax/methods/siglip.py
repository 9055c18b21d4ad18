"""SigLIP: two towers trained with a pairwise sigmoid loss (arXiv:2303.15343; reference: big_vision,
open_clip).

The file exists to hold what makes the dual encoder SigLIP: its loss and bias.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp

from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.losses.contrastive import sigmoid_contrastive
from vlp_jax.methods.base import Leaf, Part
from vlp_jax.methods.kits.dual_encoder import DualEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigLIP(DualEncoder):
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

    coupled: ClassVar[bool] = True

    def parts(self) -> dict[str, Part]:
        """image, text, logit_scale and logit_bias."""
        return {**super().parts(), "logit_bias": Part(Leaf(self.init_logit_bias))}

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """Sigmoid contrastive loss over the global batch of unit vectors {image, text}: float32[B,
        E].
        """
        scale, bias = v.params["logit_scale"], v.params["logit_bias"]
        loss, metrics = sigmoid_contrastive(rows["image"], rows["text"], scale, bias)
        return loss, Aux({**metrics, "logit_scale": jnp.exp(scale), "logit_bias": bias})

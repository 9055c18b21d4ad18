"""CLIP: symmetric softmax contrastive learning of two towers (arXiv:2103.00020; reference:
openai/CLIP, open_clip).

The file exists to hold what makes the dual encoder CLIP: its loss.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.losses.contrastive import softmax_contrastive
from vlp_jax.methods.kits.dual_encoder import DualEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIP(DualEncoder):
    """The dual encoder of methods/kits/dual_encoder.py under the softmax loss."""

    coupled: ClassVar[bool] = True

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """Softmax contrastive loss over the global batch of unit vectors {image, text}: float32[B,
        E].
        """
        scale = v.params["logit_scale"]
        loss, metrics = softmax_contrastive(rows["image"], rows["text"], scale)
        return loss, Aux({**metrics, "logit_scale": jnp.exp(scale)})

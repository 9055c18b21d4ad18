"""CLIP: symmetric softmax contrastive learning of two towers (arXiv:2103.00020; reference:
openai/CLIP, open_clip).

The file exists to hold what makes the dual encoder CLIP: its loss.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from vlp_jax.core.types import Array, Batch, Params
from vlp_jax.losses.contrastive import softmax_contrastive
from vlp_jax.methods.base import Method
from vlp_jax.methods.kits.dual_encoder import DualEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIP(DualEncoder, Method):
    """The dual encoder of methods/kits/dual_encoder.py under the softmax loss."""

    batch_coupled: ClassVar[bool] = True

    def objective(
        self, params: Params, representations: dict[str, Array], batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """Softmax contrastive loss over the global batch of unit vectors {image, text}: float32[B,
        E].
        """
        scale = params["logit_scale"]
        loss, metrics = softmax_contrastive(
            representations["image"], representations["text"], scale
        )
        return loss, {**metrics, "logit_scale": jnp.exp(scale)}

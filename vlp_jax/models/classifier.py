"""The linear classifier on pooled features, with MAE's parameter-free BatchNorm where a probe wants
it (arXiv:2111.06377 A.1), or on the first layers of a projection head (SimCLRv2, arXiv:2006.10029).

The file exists as the one head of supervised learning, fine-tuning and the trained linear probe.
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array
from vlp_jax.models.projection import ProjectionHead

NORMS = ("none", "batch")


class Classifier(nn.Module):
    """float[B, D] to logits float32[B, C].

    Attributes:
      num_classes: C.
      norm: `batch` normalises every feature by the batch (eps 1e-6, running statistics with decay
        0.9, no scale or bias), as in MAE's linear probe; `none` leaves the features.
      init_std: of the kernel's normal initialisation; the bias starts at 0.
      projection: layers that come first, named as where they were learned, or None; as the tower
        they run in evaluation when they are `frozen`.
      bias: of the last layer.
    """

    num_classes: int
    norm: str = "none"
    init_std: float = 0.01
    projection: ProjectionHead | None = None
    frozen: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        """Runs the head; rng: key[B] in training: normalise by the batch and update `batch_stats`,
        which must then be mutable.

        Raises:
          UserError: an unknown norm.
        """
        if self.norm not in NORMS:
            raise UserError(f"method.head_norm: unknown {self.norm!r}{nearest(self.norm, NORMS)}")
        if self.projection is not None:
            nn.share_scope(self, self.projection)
            x = self.projection(x, None if self.frozen else rng)[-1]
        x = x.astype(jnp.float32)
        if self.norm == "batch":
            settings = dict(momentum=0.9, epsilon=1e-6, use_bias=False, use_scale=False)
            x = nn.BatchNorm(**settings, name="norm")(x, use_running_average=rng is None)
        init = nn.initializers.normal(self.init_std)
        out = nn.Dense(self.num_classes, use_bias=self.bias, kernel_init=init, name="out")
        return out(x)  # [B, C]

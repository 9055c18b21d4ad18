"""Projection heads on pooled features: MLPs with or without BatchNorm (SimCLR, arXiv:2002.05709;
v2, arXiv:2006.10029).

The file exists because what a contrastive loss sees and what transfers are different layers.
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array
from vlp_jax.nn.precision import DTYPES

MODES = ("none", "linear", "nonlinear")


class ProjectionHead(nn.Module):
    """Features [B, D] to [B, E].

    Attributes:
      mode: `none` (E = D), `linear`, or `nonlinear` with hidden layers of width D.
      num_layers: of a nonlinear head; 2 in v1, 3 in v2.
      embed_dim: E.
      batch_norm: BatchNorm after every layer, in the last one without bias (the official code);
        without it hidden layers have a bias.
      stop: so many layers are there and run; -1: all.
    """

    mode: str = "nonlinear"
    num_layers: Size = 3
    embed_dim: Size = 128
    batch_norm: bool = True
    dtype: str = "float32"
    stop: int = -1

    @nn.compact
    def __call__(self, features: Array, rng: Array | None = None) -> list[Array]:
        """Every stage, `features` first: float[B, D], hidden layers float[B, D], last float32[B,
        E].

        Args:
          features: float[B, D].
          rng: key[B] in training: normalise by the batch's statistics and update the running ones
            (`batch_stats` must be mutable); None uses the running ones.

        Raises:
          UserError: an unknown mode, or fewer layers than `stop`.
        """
        if self.mode not in MODES:
            raise UserError(f"head.mode: unknown {self.mode!r}{nearest(self.mode, MODES)}")
        count = {"none": 0, "linear": 1}.get(self.mode, self.num_layers)
        if not -1 <= self.stop <= count:
            raise UserError(f"method.ft_proj_selector={self.stop}: the head has {count} layers")
        stages = [features]
        for index in range(1, (count if self.stop < 0 else self.stop) + 1):
            stages.append(self._layer(stages[-1], index, index == count, rng is not None))
        return [*stages[:-1], stages[-1].astype(jnp.float32)]

    def _layer(self, x: Array, index: int, last: bool, train: bool) -> Array:
        width = self.embed_dim if last else x.shape[-1]
        dtype, bias = DTYPES[self.dtype], not (last or self.batch_norm)
        init = nn.initializers.normal(0.01)
        x = nn.Dense(width, bias, dtype, kernel_init=init, name=f"layer{index}")(x)
        if self.batch_norm:
            how = dict(momentum=0.9, epsilon=1e-5, use_bias=not last, dtype=dtype)
            norm = nn.BatchNorm(**how, name=f"layer{index}_bn")
            x = norm(x, use_running_average=not train)
        return x if last else nn.relu(x)

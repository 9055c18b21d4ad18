"""Rotary positions (RoFormer, arXiv:2104.09864), and those stretched to longer texts: linearly
(arXiv:2306.15595), by a base that grows with the text (dynamic NTK), and as in Llama 3.

Of a head's first R numbers i and i + R/2 turn together, as in transformers' Llama and GPT-NeoX. The
file exists as the one place where angles are computed, in float32 whatever the compute dtype.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array

SCALINGS = ("none", "linear", "dynamic", "llama3")


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Which angles.

    Attributes:
      size: R, how many numbers of a head turn; of an odd R one more does, as in transformers.
      theta: number i of R/2 turns by theta^(-2 i / R) a place.
      scaling: a name of SCALINGS; factor: how much longer texts may be.
      length: of the texts before that.
      low, high: of llama3: what turns less than `low` times in `length` places turns `factor` times
        slower, what turns more than `high` times as before, what is between in between.
    """

    size: int
    theta: float = 10_000.0
    scaling: str = "none"
    factor: float = 1.0
    length: int = 0
    low: float = 1.0
    high: float = 4.0

    def turns(self, places: Array) -> tuple[Array, Array]:
        """Cosines and sines, float32[B, 1, T, R/2], of places int32[B, T].

        Raises:
          UserError: an unknown scaling.
        """
        if self.scaling not in SCALINGS:
            hint = nearest(self.scaling, SCALINGS)
            raise UserError(f"lm.rope_scaling: unknown {self.scaling!r}{hint}")
        angles = places[:, None, :, None] * self._speeds(places)
        # Once, not by every head of every layer that turns.
        return jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))

    def _speeds(self, places: Array) -> Array | np.ndarray:
        """float32[R/2], under dynamic scaling float32[B, 1, 1, R/2], by how long each text is."""
        exponents = np.arange(0, self.size, 2, dtype=np.float32) / np.float32(self.size)
        if self.scaling == "dynamic":
            count = jnp.maximum(places[:, -1] + 1, self.length)[:, None, None, None]
            longer = self.factor * count / self.length - (self.factor - 1)
            theta = self.theta * longer ** (self.size / (self.size - 2))
            return 1 / theta**exponents
        speeds = np.float32(1) / np.float32(self.theta) ** exponents
        if self.scaling == "linear":
            return speeds / np.float32(self.factor)
        if self.scaling == "llama3":
            often = speeds * self.length / (2 * math.pi)  # turns within `length`
            share = np.clip((often - self.low) / (self.high - self.low), 0, 1)
            return ((1 - share) * speeds / self.factor + share * speeds).astype(np.float32)
        return speeds


def turn(x: Array, turns: tuple[Array, Array]) -> Array:
    """float[B, H, T, K] with its first R numbers of each head turned."""
    cos, sin = turns
    half = cos.shape[-1]
    first, second = (x[..., at : at + half].astype(jnp.float32) for at in (0, half))
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), x[..., 2 * half :]], -1)


def slopes(num_heads: int, most: float = 8.0) -> np.ndarray:
    """ALiBi's slope of each head, float32[H] (arXiv:2108.12409; of a number of heads that is no
    power of two every other one of the next power comes first, as in MPT).

    Worked example: 2^-4, 2^-8 of two heads; of three 2^-4, 2^-8, 2^-2.
    """
    count = 2 ** math.ceil(math.log2(num_heads))
    found = 2.0 ** (-np.arange(1, count + 1) * most / count)
    if count != num_heads:
        found = np.concatenate([found[1::2], found[::2]])[:num_heads]
    return found.astype(np.float32)

"""Which weights learn small adapters instead of moving themselves: the config's `adapt`.

LoRA (arXiv:2106.09685) as diffusers starts it: a normal of deviation 1 / r, b zero, so that a
network with fresh adapters computes bit for bit what it did. The file exists so that adapters are
chosen by path, for any method.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from vlp_jax.core import adapters
from vlp_jax.core import rng as rngs
from vlp_jax.core.adapters import Adapter
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.pytree import map_with_path, matches, unflatten
from vlp_jax.core.schema import Amount, Range
from vlp_jax.core.types import Array, Params

ATTENTION = (r".*attn/(qkv|query|key_value|out)/kernel",)
LARGE = (r".*/(kernel|embedding)",)


@dataclasses.dataclass(frozen=True)
class Adapt:
    """The config's `adapt`.

    Attributes:
      rank: r of the adapters; 0: none.
      alpha: an adapter counts alpha / r times; 0: as r, once.
      paths: regexes of what is adapted: of the weights that match, the kernels of linear layers and
        convolutions. () is ATTENTION: every attention's maps.
      learn: regexes of what learns beside adapters (new rows of a table, a projection); all the
        rest is frozen. With rank 0, what learns alone.
      half: frozen kernels and tables are kept in bfloat16.
    """

    rank: Annotated[int, Range(0)] = 0
    alpha: Amount = 0.0
    paths: tuple[str, ...] = ()
    learn: tuple[str, ...] = ()
    half: bool = False

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self.rank or self.learn)

    @property
    def trained(self) -> tuple[str, ...]:
        """Path regexes of what learns."""
        return (*adapters.PATHS, *self.learn)

    def keep(self, frozen: Params) -> Params:
        """Frozen weights in the precision that `half` says; gains and biases stay as they are."""

        def cast(path: str, leaf: Array) -> Array:
            return leaf.astype(jnp.bfloat16) if matches(path, LARGE) else leaf

        return map_with_path(cast, frozen) if self.half else frozen


def draw(config: Adapt, shapes: Mapping[str, Adapter], rng: Array) -> Params:
    """Fresh adapters.

    Args:
      config: which.
      shapes: {path of a kernel: shapes of its adapter} of all that can have one.
      rng: key[].

    Raises:
      UserError: a pattern that matches none of these kernels.
    """
    patterns = config.paths or ATTENTION
    for pattern in patterns:
        if not any(matches(path, (pattern,)) for path in shapes):
            what = "matches no kernel of a linear layer or convolution"
            raise UserError(f"adapt.paths: {pattern!r} {what}{nearest(pattern, shapes, 4)}")
    factor, flat = (config.alpha or config.rank) / config.rank, {}
    for kernel, (a, b, scale) in shapes.items():
        if matches(kernel, patterns):
            normal = jax.random.normal(rngs.fold(rng, kernel), a) / config.rank
            leaves = normal, jnp.zeros(b), jnp.full(scale, factor)
            flat |= dict(zip(adapters.names(kernel), leaves, strict=True))
    return unflatten(flat)

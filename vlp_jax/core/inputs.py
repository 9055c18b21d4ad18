"""What a method is given and hands back: its variables, one batch with its keys, and what changed.

The file exists so that a loss, an evaluation function and a sampler are called alike, and sums over
a part of a batch add up to those over the whole.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.types import Array, Batch, Extra, Params

ROWS = "rows"  # the total that every method has


class Vars(NamedTuple):
    """What a method computes with: all its parameters, frozen ones too, and its extra state."""

    params: Params
    extra: Extra


class Aux(NamedTuple):
    """What a stage of a method hands back beside its result.

    metrics: {name: float[]}, logged, never optimised. extra: the entries of the extra state that
    changed, a nested dict that is laid over the old one.
    """

    metrics: Mapping[str, Array] = {}
    extra: Extra = {}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Rows of a batch and what goes with them.

    Attributes:
      batch: {array: [b, ...]} of the method's fields.
      index: int32[b], the rows' numbers: in the whole batch in training, in the data set outside
        (-1: padding).
      rng: key[b], one per row, so that no draw depends on how a batch is split.
      step: int32[], updates done so far.
      totals: {name: float32[]}, denominators of the whole batch (Method.totals).
      train: whether networks run as in training; a key alone means no training (sampling).
      phases: names of those that are played at this step, where there are such (Method.phases).
    """

    batch: Batch
    index: Array
    rng: Array
    step: Array | int = 0
    totals: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    train: bool = False
    phases: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, batch: Batch, rng: Array | None = None, index: Array | None = None, **how
    ) -> "Inputs":
        """A whole batch of a method without totals of its own.

        Args:
          rng: key[b]; without it one of each row's number.
          index: int32[b], the rows' numbers; without it 0, 1, ...
        """
        if index is None:
            index = jnp.arange(len(jax.tree.leaves(batch)[0]))
        keys = rngs.row_keys(jax.random.key(0), index) if rng is None else rng
        return cls(batch, index, keys, totals={ROWS: jnp.float32(len(index))}, **how)

    def replace(self, **changes) -> "Inputs":
        """With other attributes."""
        return dataclasses.replace(self, **changes)

    def fold(self, name: str) -> "Inputs":
        """With the keys of one named use."""
        return self.replace(rng=rngs.fold(self.rng, name))

    @property
    def keys(self) -> Array | None:
        """key[b] in training, None outside: for augmentation and whatever evaluation leaves out."""
        return self.rng if self.train else None

    def share(self, values: Array, total: str = ROWS) -> Array:
        """These rows' share of a mean over the whole batch: the sum over rows of each row's mean,
        divided by the total. The shares of micro-batches add up to the mean.

        Worked example: rows [[1, 3], [5, 7]] of a batch of 4 give (2 + 6) / 4.

        values: float[b, ...] -> float32[]
        """
        rows = values.reshape(len(values), -1).astype(jnp.float32).mean(1)
        return rows.sum() / self.totals[total]


jax.tree_util.register_dataclass(
    Inputs, ["batch", "index", "rng", "step", "totals"], ["train", "phases"]
)


def lay(over: Mapping, under: Mapping) -> dict:
    """`under` with the entries of `over` in their places, nested dicts entry by entry.

    >>> lay({"a": {"b": 1}}, {"a": {"b": 0, "c": 2}})
    {'a': {'b': 1, 'c': 2}}
    """
    both = dict(under)
    for name, new in over.items():
        old = both.get(name)
        nested = isinstance(new, Mapping) and isinstance(old, Mapping)
        both[name] = lay(new, old) if nested else new
    return both


def over(later: Aux, earlier: Aux) -> Aux:
    """What two stages hand back, the later one laid over the earlier."""
    return Aux({**earlier.metrics, **later.metrics}, lay(later.extra, earlier.extra))

"""Host batches to global device arrays, one step ahead of the step that uses them.

The file exists as the only place on the data side that touches devices; it is handed a sharding and
knows no mesh.
"""

import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np


def to_device(
    batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding
) -> dict[str, jax.Array]:
    """This process's rows [b, ...] -> global arrays [B, ...] under `sharding` of axis 0."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


class DeviceFeed:
    """Iterates over device batches; `waited` is the time the last `next` waited for the pipeline.

    Args:
      batches: host-local batches; only the entries named in `spec` travel.
      sharding: of axis 0.
      spec: the method's batch_spec, checked against every batch's dtype and row shape by the
        compiled step.
    """

    def __init__(
        self,
        batches: Iterator[dict[str, np.ndarray]],
        sharding: jax.sharding.Sharding,
        spec: Mapping[str, object],
    ):
        self._batches, self._sharding, self._names = batches, sharding, tuple(spec)
        self.waited = 0.0

    def __iter__(self) -> "DeviceFeed":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        start = time.perf_counter()
        batch = next(self._batches)
        self.waited = time.perf_counter() - start
        return to_device({name: batch[name] for name in self._names}, self._sharding)

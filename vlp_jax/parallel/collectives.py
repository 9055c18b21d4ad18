"""Code that runs once per device over the batch axes, with its collectives written out.

The file exists so that losses which couple a whole batch say what travels between devices and still
name no mesh: `jax.set_mesh` puts one in scope, and on one device nothing is sent.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vlp_jax.core.types import Array
from vlp_jax.parallel.mesh import BATCH_AXES, BATCH_SPEC

SPLIT, WHOLE = BATCH_SPEC, PartitionSpec()  # axis 0 over the batch axes; the same on every device


@dataclasses.dataclass(frozen=True)
class BatchAxes:
    """Collectives over `names`, mesh axes of `size` devices in all; identities where there are
    none.
    """

    names: tuple[str, ...] = ()
    size: int = 1

    def gather(self, x: Array) -> Array:
        """Rows of all devices in the order of the global batch. [b, ...] -> [B, ...]"""
        return jax.lax.all_gather(x, self.names, tiled=True) if self.names else x

    def scatter_sum(self, x: Array) -> Array:
        """Sum over devices, each keeps its own rows: `gather` transposed. [B, ...] -> [b, ...]

        One axis after the other: libtpu makes a scatter over a whole slice at once an all-reduce.
        """
        for name in (n for n in self.names if jax.lax.axis_size(n) > 1):
            x = jax.lax.psum_scatter(x, name, tiled=True)
        return x

    def sum(self, x: Any) -> Any:
        """Sum over devices."""
        return jax.lax.psum(x, self.names) if self.names else x

    def index(self) -> Array | int:
        """This device's number: it holds the rows [index b, index b + b) of the global batch."""
        return jax.lax.axis_index(self.names) if self.names else 0

    def pass_on(self, x: Array) -> Array:
        """What the next device holds (the last has the first for its next)."""
        ring = [(i, (i - 1) % self.size) for i in range(self.size)]
        return jax.lax.ppermute(x, self.names, ring) if self.names else x

    def max(self, x: Array) -> Array:
        """Maximum over devices."""
        return jax.lax.pmax(x, self.names) if self.names else x

    def log_sum(self, top: Array, total: Array) -> tuple[Array, Array]:
        """(m, m + log sum_d total_d exp(top_d - m)) with m the maximum of `top` over devices d."""
        whole = self.max(top)
        return whole, whole + jnp.log(self.sum(total * jnp.exp(top - whole)))


def over_batch(run: Callable[..., Any], in_specs: tuple, out_specs: Any) -> Callable[..., Any]:
    """run(BatchAxes, *local arrays) once per device of the mesh in scope; a plain call without one.

    Args:
      run: gets each array's local part as its spec says.
      in_specs, out_specs: SPLIT or WHOLE for every array or tree of arrays.

    Returns:
      a function of global arrays.
    """
    mesh = jax.sharding.get_abstract_mesh()
    known = not mesh.empty and set(BATCH_AXES) <= set(mesh.axis_names)
    size = mesh.shape["data"] * mesh.shape["fsdp"] if known else 1
    if size == 1:
        return lambda *arrays: run(BatchAxes(), *arrays)
    axes = BatchAxes(BATCH_AXES, size)
    body = lambda *arrays: run(axes, *arrays)  # noqa: E731
    return jax.shard_map(body, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

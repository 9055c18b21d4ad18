"""Activation sharding: one call at block borders, a no-op without a mesh (design section 5).

The file exists so that networks never name a mesh: `jax.set_mesh` puts one in scope, and this reads
it.
"""

import jax
from jax.sharding import PartitionSpec

from vlp_jax.core.types import Array
from vlp_jax.parallel.mesh import BATCH_AXES


def constrain_batch(x: Array) -> Array:
    """Pins axis 0 to the batch axes of the mesh in scope; the other axes are left to the
    compiler.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return x
    rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *rest))

"""The device mesh: axes ("data", "fsdp", "tensor"), always of Auto type (design section 5).

The file exists so that one config entry, `mesh`, describes a laptop and a pod, and a mesh that does
not fit the devices is refused before anything is compiled.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import typed

AXES = ("data", "fsdp", "tensor")
ALL_DEVICES = {"data": -1, "fsdp": 1, "tensor": 1}  # what a config says that asks for nothing
BATCH_AXES = ("data", "fsdp")  # the axes that split examples
BATCH_SPEC = PartitionSpec(BATCH_AXES)


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh from {axis: size}; one size may be -1, "all devices that remain".

    Raises:
      UserError: an unknown axis, a size that is no whole number, or sizes whose product is not the
        number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {axis: 1 for axis in AXES}
    for axis, count in shape.items():
        if axis not in sizes:
            raise UserError(f"mesh.{axis}: unknown axis{nearest(axis, AXES)}")
        sizes[axis] = typed(f"mesh.{axis}", count, int)
    free = [axis for axis, count in sizes.items() if count == -1]
    fixed = math.prod(count for count in sizes.values() if count != -1)
    if len(free) > 1 or any(count < 1 and count != -1 for count in sizes.values()):
        raise UserError(
            f"mesh: sizes must be positive and at most one may be -1, got {dict(sizes)}"
        )
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        need = "a divisor of " if free else ""
        raise UserError(
            f"mesh: {dict(sizes)} does not cover {len(devices)} devices; axes that are not -1 must "
            f"multiply to {need}{len(devices)}, or let mesh.data=-1 take what is left"
        )
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=kinds, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples split over the data and fsdp axes, everything else whole."""
    return NamedSharding(mesh, BATCH_SPEC)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Refuses a batch that does not divide into equal micro-batches per device.

    Raises:
      UserError: names batch_size, accumulate and the devices that split the batch.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if accumulate < 1:
        raise UserError(f"accumulate={accumulate}: must be at least 1")
    unit = accumulate * ways
    if batch_size < 1 or batch_size % unit:
        raise UserError(
            f"batch_size={batch_size} must be a positive multiple of accumulate={accumulate} x "
            f"{ways} batch devices, for example {max(1, -(-batch_size // unit)) * unit}"
        )

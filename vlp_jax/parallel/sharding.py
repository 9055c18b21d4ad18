"""Parameter sharding: ordered (path regex -> tactic) presets over `eval_shape` output (design
section 5).

Tactics: `whole` keeps a leaf on every device; `fsdp` splits its largest divisible axis over the
fsdp axis; `heads` and `hidden` put a named dimension on the tensor axis and fsdp on the largest of
the rest. The file exists so that parameters are born sharded by rules a reader can list, with no
metadata boxes in the modules.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.pytree import map_with_path

Tactic = Callable[[tuple[int, ...], Mesh], PartitionSpec]


def _whole(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    del shape, mesh
    return PartitionSpec()


def _split_largest(shape: tuple[int, ...], mesh: Mesh, taken: dict[int, str]) -> PartitionSpec:
    ways = mesh.shape["fsdp"]
    free = [axis for axis, n in enumerate(shape) if axis not in taken and n % ways == 0]
    if ways > 1 and free:
        taken = {**taken, max(free, key=lambda axis: shape[axis]): "fsdp"}
    return PartitionSpec(*(taken.get(axis) for axis in range(len(shape))))


def _fsdp(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    return _split_largest(shape, mesh, {})


def _tensor(axis: int) -> Tactic:
    """Puts dimension `axis` (negative, from the end) on the tensor axis where it divides."""

    def tactic(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        ways = mesh.shape["tensor"]
        # Adafactor keeps leaves of fewer axes under a parameter's path.
        fits = ways > 1 and len(shape) >= -axis and shape[axis] % ways == 0
        return _split_largest(shape, mesh, {len(shape) + axis: "tensor"} if fits else {})

    return tactic


# Megatron's split: heads and MLP hidden units over the tensor axis (arXiv:1909.08053, section 3).
_MEGATRON: tuple[tuple[str, Tactic], ...] = (
    (r".*/(\w+_)?attn/(qkv|key_value)/(kernel|bias)", _tensor(-3)),  # [..., H, 3 or 2, K]
    (r".*/(\w+_)?attn/query/(kernel|bias)", _tensor(-2)),
    (r".*/(\w+_)?attn/out/kernel", _tensor(-3)),
    (r".*/(\w+_)?mlp/fc1/(kernel|bias)", _tensor(-1)),
    (r".*/(\w+_)?mlp/fc2/kernel", _tensor(-2)),
    (r".*/(\w+_)?(token_embed|head)/embedding", _tensor(-2)),
)

PRESETS: dict[str, tuple[tuple[str, Tactic], ...]] = {
    "replicated": ((r".*", _whole),),
    "fsdp": ((r".*", _fsdp),),
    "fsdp_tensor": (*_MEGATRON, (r".*", _fsdp)),
}


def param_sharding(shapes: Any, mesh: Mesh, preset: str) -> Any:
    """Returns the NamedSharding of every leaf of a tree of shapes (parameters, optimiser state,
    EMA).

    A leaf of an optimiser state gets the rule of the parameter whose path ends its own; scalars
    stay whole.

    Raises:
      UserError: an unknown preset.
    """
    if preset not in PRESETS:
        raise UserError(f"sharding: unknown preset {preset!r}{nearest(preset, PRESETS)}")

    def rule(path: str, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        for pattern, tactic in PRESETS[preset]:
            if re.fullmatch(pattern, path):
                return NamedSharding(
                    mesh, tactic(leaf.shape, mesh) if leaf.shape else PartitionSpec()
                )
        raise ValueError(f"sharding preset {preset!r} covers no rule for {path}")

    return map_with_path(rule, shapes)


def put(leaf: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    """An array in the dtype and sharding of `like`, shard by shard: an array of the host, or a
    tensor of a file mapped into memory, is read no further than devices of this process need it.
    """
    if isinstance(leaf, jax.Array):
        return jax.device_put(leaf.astype(like.dtype), like.sharding, may_alias=False)
    opened = leaf[...]
    read = lambda index: np.asarray(opened[index], like.dtype)  # noqa: E731
    return jax.make_array_from_callback(tuple(leaf.shape), like.sharding, read)


def place(tree: Any, where: Any) -> Any:
    """A tree of arrays under a sharding, or a tree of them, each leaf put straight to its shards.
    In a job every process has the whole.
    """
    if isinstance(where, Sharding):
        where = jax.tree.map(lambda _: where, tree)
    shape = lambda x, its: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=its)  # noqa: E731
    return jax.tree.map(put, tree, jax.tree.map(shape, tree, where))

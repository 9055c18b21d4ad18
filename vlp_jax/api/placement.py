"""Where the weights of a loaded model lie, and how its functions run there.

Without a preset of parallel/sharding.py that is the first device; with one, all devices hold the
weights as the preset says and share the rows of every batch. The file exists so that `embed`,
`eval` and a notebook place a model alike.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.inputs import Vars
from vlp_jax.core.types import HostBatch
from vlp_jax.decoding.how import Writing
from vlp_jax.methods.base import Method
from vlp_jax.nn.layers import blocks_apart
from vlp_jax.parallel.mesh import BATCH_AXES, batch_sharding, make_mesh, replicated
from vlp_jax.parallel.sharding import PRESETS, param_sharding, place
from vlp_jax.parallel.widening import options_for
from vlp_jax.train.functions import compiled, find

Run = Callable[..., Any]  # f(batch, how=None) -> arrays of the host


def choose_mesh(sharding: str, shape: Mapping[str, int] | None = None) -> Mesh | None:
    """The mesh for a preset: of `shape`, or where that says nothing of all devices. None: one
    device is enough.

    Raises:
      UserError: an unknown preset, a shape without one, or that does not fit the devices.
    """
    if sharding and sharding not in PRESETS:
        raise UserError(f"--sharding: unknown preset {sharding!r}{nearest(sharding, PRESETS)}")
    if not sharding and jax.process_count() == 1:
        if shape:
            raise UserError(f"mesh={dict(shape)}: needs a sharding{nearest('', PRESETS)}")
        return None
    usual = {"data": -1} if sharding in ("", "replicated") else {"fsdp": -1}
    return make_mesh(shape or usual)


def places(mesh: Mesh | None, sharding: str) -> Callable[[Any], Any]:
    """f(tree of shapes) -> the tree of their shardings."""
    if mesh is not None:
        return lambda shapes: param_sharding(shapes, mesh, sharding or "replicated")
    where = SingleDeviceSharding(jax.local_devices()[0])
    return lambda shapes: jax.tree.map(lambda _: where, shapes)


def runner(method: Method, name: str, v: Vars, mesh: Mesh | None = None) -> Run:
    """A function of a method as f(batch, how=None, index=None) from host arrays to host arrays;
    index: see train/functions.py compiled.

    Products run in full float32, so that numbers agree between kinds of device. On a mesh the rows
    are shared by its devices, filled up to a multiple of them.

    Raises:
      UserError: the method has no such function.
    """
    writes = find(method, name).how is Writing  # its loop widens weights once for all words
    options = {} if writes else options_for(v.params, mesh)
    program = compiled(method, name, None if mesh is None else replicated(mesh), **options)
    if mesh is None and writes:
        v = for_writing(method, v)

    def run(batch: HostBatch, how: Any = None, index: np.ndarray | None = None) -> Any:
        with jax.default_matmul_precision("highest"):
            if mesh is None:
                return jax.tree.map(np.asarray, program(*v, batch, index, how))
            count = len(next(iter(batch.values()), index))  # what reads nothing draws by index
            most = -(-count // ways(mesh)) * ways(mesh)
            filled = {array: fill(rows, most) for array, rows in batch.items()}
            index = None if index is None else fill(index, most)
            with jax.set_mesh(mesh):
                out = program(*v, place(filled, batch_sharding(mesh)), index, how)
            return jax.tree.map(lambda rows: np.asarray(rows)[:count], out)

    return run


def for_writing(method: Method, v: Vars) -> Vars:
    """On a CPU the networks that write with their blocks apart (nn/layers.py), else as they are."""
    if jax.default_backend() != "cpu":
        return v
    nets = {name: part.net for name, part in method.parts().items()}
    writers = [name for name, net in nets.items() if getattr(net, "writes", False)]
    return v._replace(params=v.params | {name: blocks_apart(v.params[name]) for name in writers})


def fill(rows: np.ndarray, count: int) -> np.ndarray:
    """[b, ...] -> [count, ...]: as many copies of the first row at the end as are missing."""
    return np.concatenate([rows, np.repeat(rows[:1], count - len(rows), axis=0)])


def ways(mesh: Mesh) -> int:
    """How many devices share the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def shapes(method: Method, name: str, v: Vars, batch: HostBatch) -> Any:
    """Shapes and dtypes of what a function gives, without running it; `batch` may be shapes too."""
    return jax.eval_shape(compiled(method, name), *v, batch)

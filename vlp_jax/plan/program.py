"""Compiles the training step of a config for given devices and reads what the compiler says.

It is the very step of `train`: train/trainer.py builds it, this only gives it other devices and no
data. The file exists to tell "it does not fit" from a failure.
"""

import dataclasses
import os
import re
import time
from collections.abc import Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.fields import Field, replaced
from vlp_jax.parallel.mesh import check_batch, make_mesh
from vlp_jax.train.functions import stand_ins, taken
from vlp_jax.train.settings import check_settings
from vlp_jax.train.trainer import Trainer

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_SIZE = r"([\d.]+)([KMGTP]?)"
# Both of libtpu's ways to say it: (needed, available).
_REFUSALS = (
    re.compile(rf"[Uu]sed {_SIZE}B? of {_SIZE}B? hbm"),
    re.compile(rf"\({_SIZE}B?\) exceeds available HBM \({_SIZE}B?\)"),
)
_NEEDED = re.compile(rf"Total hbm usage >= {_SIZE}")
HOST_MEMORY = 3 << 30  # bytes that the compile of a large step takes on the host


@dataclasses.dataclass(frozen=True)
class PlannedTrainer(Trainer):
    """A Trainer for devices that need not be here, without data.

    Attributes:
      devices: what to compile for.
      num_examples: size of the training set, for lengths given in epochs.
      cached: a batch holds what `data cache` makes of it, so frozen parts do not run.
    """

    devices: Sequence = ()
    num_examples: int = 1
    cached: bool = False

    def __post_init__(self) -> None:
        check_settings(self.config)
        check_batch(self.config.batch_size, self.config.accumulate, self.mesh)

    @cached_property
    def mesh(self) -> Mesh:
        """The mesh of `config.mesh` over the devices."""
        return make_mesh(self.config.mesh.to_dict(), self.devices)

    @cached_property
    def fields(self) -> dict[str, Field]:
        """What a batch holds, by `cached` instead of by the data. Raises UserError: the method has
        nothing that a cache could hold."""
        whole, names = self.whole_fields, taken(self.method) if self.cached else ()
        if self.cached and not names:
            raise UserError(f"--cached: {self.config.method.name} takes nothing from a cache")
        return replaced(whole, stand_ins(self.method, whole, names))

    @cached_property
    def pipeline(self) -> Any:
        """The one thing of the data that the step depends on: its size."""
        return SimpleNamespace(num_examples=self.num_examples)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler said; sizes in bytes per device. Nothing but fits, hbm and limit where the
    program was refused.
    """

    fits: bool
    hbm: int
    limit: int
    seconds: float
    args: int = 0
    outputs: int = 0
    temp: int = 0
    code: int = 0
    text: str = ""


def parse_refusal(message: str) -> tuple[int, int] | None:
    """(needed, available) bytes of a RESOURCE_EXHAUSTED message; None for any other."""
    found = next(filter(None, (pattern.search(message) for pattern in _REFUSALS)), None)
    if not found:
        return None
    to_bytes = lambda number, unit: int(float(number) * _UNITS[unit])  # noqa: E731
    total = _NEEDED.search(message)
    needed = to_bytes(*found.groups()[:2])
    return max(needed, to_bytes(*total.groups()) if total else 0), to_bytes(*found.groups()[2:])


def check_host_memory() -> None:
    """Refuses to start a compile that the host cannot hold.

    Raises:
      UserError: less than about 3 GiB are free.
    """
    try:
        lines = open("/proc/meminfo").read().splitlines()  # noqa: SIM115
    except OSError:
        return
    free = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    if free.get("MemAvailable", HOST_MEMORY) < HOST_MEMORY:
        raise UserError(
            f"plan: {free['MemAvailable'] / 2**30:.1f} GiB of host memory are free, a compile "
            f"needs about {HOST_MEMORY / 2**30:.0f}; end other programs or use a larger host"
        )


def memory_limit(device: Any) -> int:
    """Bytes a program may use on a device: asked of a GPU, of the host for CPUs (its share), of the
    TPU's compiler by a program that cannot fit.
    """
    if device.platform == "cpu":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages // len(jax.devices("cpu"))
    if device.platform == "gpu":
        return device.memory_stats()["bytes_limit"]
    huge = jax.ShapeDtypeStruct((2**20, 2**20), np.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        found = parse_refusal(str(error))
        if found:
            return found[1]
    raise RunError("the TPU compiler did not name its memory limit; is libtpu newer than this?")


def compile_step(trainer: Trainer) -> Compiled:
    """Compiles the step of a trainer for its devices.

    Raises:
      RunError: the compiler failed for another reason than memory.
    """
    limit = memory_limit(trainer.mesh.devices.flat[0])
    batch = trainer.batch_spec(trainer.config.batch_size)
    start = time.perf_counter()
    try:
        with jax.set_mesh(trainer.mesh):
            compiled = trainer.jit_step.lower(*trainer.abstract, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - start
        refusal = parse_refusal(str(error))
        if refusal is None:
            raise RunError(f"the compiler failed: {str(error).splitlines()[0]}") from error
        return Compiled(False, *refusal, seconds)
    seconds = time.perf_counter() - start
    m = compiled.memory_analysis()
    code = m.generated_code_size_in_bytes
    args, temp = m.argument_size_in_bytes, m.temp_size_in_bytes
    outputs = m.output_size_in_bytes - m.alias_size_in_bytes  # the state is updated in place
    hbm = args + outputs + temp + code
    sizes = dict(args=args, outputs=outputs, temp=temp, code=code, text=compiled.as_text())
    return Compiled(hbm <= limit, hbm, limit, seconds, **sizes)


def device_bytes(tree: Any) -> int:
    """Bytes that a tree of sharded shapes takes on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )

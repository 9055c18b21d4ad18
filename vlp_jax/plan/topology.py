"""Names of devices to plan for: TPU slices that are not here, simulated CPUs, GPUs that are.

libtpu compiles for a slice it does not have. Link and memory speeds are the vendor's data sheets
(Cloud TPU documentation, "System architecture"; per chip, all links, one direction). The file
exists so that a misspelt topology is one line with the known names.
"""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.parallel.hosts import ANY_SLICE


class Chip(NamedTuple):
    """Data-sheet numbers of one device: bytes/s of its memory and of its links together."""

    memory_speed: float
    link_speed: float
    options: dict[str, str] = {}  # one device per chip where a chip has two cores


TPUS: dict[str, Chip] = {
    "v4": Chip(1.2e12, 300e9, {"chip_config_name": "megacore"}),
    "v5e": Chip(819e9, 200e9),
    "v5p": Chip(2.765e12, 600e9, {"chip_config_name": "megacore"}),
    "v6e": Chip(1.64e12, 448e9),
}
# Slices one can rent; others of these generations work too.
KNOWN = (
    *("v4:2x2x1", "v4:2x2x4", "v4:4x4x4", "v4:4x4x8", "v4:4x8x8", "v4:8x8x8"),
    *("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16"),
    *("v5p:2x2x1", "v5p:2x2x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:8x8x8"),
    *("v6e:1x1", "v6e:2x2", "v6e:2x4", "v6e:4x4", "v6e:4x8", "v6e:8x8", "v6e:8x16", "v6e:16x16"),
)
OTHERS = ("cpu:8", "gpu")
_UNKNOWN_CHIP = Chip(100e9, 10e9)
_GPU = Chip(3.35e12, 450e9)  # H100 SXM: HBM3, NVLink


def check_topology(name: str) -> None:
    """Refuses a name that is no TPU slice, `cpu:N` or `gpu`, before JAX is imported.

    Raises:
      UserError: lists what is known.
    """
    kind, _, shape = name.partition(":")
    tpu = kind in TPUS and re.fullmatch(r"\d+x\d+(x\d+)?", shape)
    if tpu or name == "gpu" or re.fullmatch(r"cpu:[1-9]\d*", name):
        return
    known = (*KNOWN, *OTHERS)
    hint = nearest(name, known).partition("; valid")[0]  # all of them follow
    raise UserError(f"--topology={name}: unknown{hint}; known: {', '.join(known)}")


def prepare(name: str) -> None:
    """Environment that a topology needs, to be set before JAX is imported.

    Raises:
      UserError: libtpu is not installed.
    """
    if name.startswith("cpu:"):
        flag = f"--xla_force_host_platform_device_count={name[4:]}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if name == "gpu":
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if name.partition(":")[0] in TPUS:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"--topology={name}: needs libtpu (Linux, x86-64): pip install -e '.[tpu]'"
            )
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"
        os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
        for name, value in ANY_SLICE.items():  # no plan asks for it
            os.environ.setdefault(name, value)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def open_topology(name: str) -> Sequence:
    """The devices of a topology.

    Raises:
      UserError: a slice that this libtpu cannot form, or no GPU.
    """
    import jax

    kind = name.partition(":")[0]
    if kind not in TPUS:
        try:
            return jax.devices(kind)
        except RuntimeError as error:
            raise UserError(f"--topology={name}: there is none here ({error})") from error
    from jax.experimental import topologies

    jax.config.update("jax_enable_compilation_cache", False)  # cannot read such programs back
    try:
        found = topologies.get_topology_desc(name, platform="tpu", **TPUS[kind].options)
    except Exception as error:
        reason = str(error).splitlines()[0]
        known = ", ".join(n for n in KNOWN if n.startswith(kind))
        text = f"--topology={name}: no such slice ({reason}); for example {known}"
        raise UserError(text) from error
    return found.devices


def chip(name: str) -> Chip:
    """Speeds of a topology's devices; rough ones for CPUs and GPUs."""
    return TPUS.get(name.partition(":")[0], _GPU if name == "gpu" else _UNKNOWN_CHIP)

"""What XLA must be told of weights narrower than float32 on a CPU.

There it computes in float32 alone, and takes the widening of a stack of layers out of their loop,
all layers at once: a language model in bf16 would need three times its memory (temporaries of 38 MB
beside weights of 17, and of 5 without that pass). The file exists so that programs that only read
such weights, and a step beside frozen ones, are told alike.
"""

from typing import Any

import jax
from jax.sharding import Mesh

_PASS = "while-loop-invariant-code-motion"


def options_for(params: Any, mesh: Mesh | None = None) -> dict[str, str]:
    """Compiler options of a program that reads these parameters layer by layer on the mesh, or on
    the first device; {} where none are narrow, or the devices compute with them as they are."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if platform != "cpu":
        return {}
    narrow = any(leaf.dtype.itemsize < 4 for leaf in jax.tree.leaves(params))
    return {"xla_disable_hlo_passes": _PASS} if narrow else {}

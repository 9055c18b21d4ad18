"""What XLA must be told of weights narrower than float32 on a CPU.

There it computes in float32 alone, and takes the widening of a stack of layers out of their loop,
all layers at once: a language model in bf16 would need three times its memory (temporaries of 38 MB
beside weights of 17, and of 5 without that pass). The file exists so that programs that only read
such weights, and a step beside frozen ones, are told alike.
"""

from typing import Any

import jax

_PASS = "while-loop-invariant-code-motion"


def options_for(params: Any) -> dict[str, str]:
    """Compiler options of a program that reads these parameters layer by layer; {} where none are
    narrow, or the device computes with them as they are."""
    if jax.default_backend() != "cpu":
        return {}
    narrow = any(leaf.dtype.itemsize < 4 for leaf in jax.tree.leaves(params))
    return {"xla_disable_hlo_passes": _PASS} if narrow else {}

"""FLOPs of a function by its trace: 2 x multiply-adds of every product and convolution, loops times
their length, recompute never counted.

The file exists because a U-Net's skips, resolutions and attentions have no formula that a reader
would rather check than this walk (models/flops.py has those of towers).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def traced_flops(fn: Callable[..., Any], *args: Any) -> float:
    """Of one call; args: trees of arrays or shapes. Kernels that are not written in JAX (cuDNN's
    attention) count nothing."""
    return _flops(jax.make_jaxpr(fn)(*args).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> float:
    return sum(_of(equation) for equation in jaxpr.eqns)


def _of(equation: core.JaxprEqn) -> float:
    name, params = equation.primitive.name, equation.params
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * out * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, layout = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return 2.0 * out * math.prod(kernel) / kernel[layout[0]]  # all but the output's channels
    inner = [_flops(found) for found in _inside(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * params.get("length", 1)


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that an equation runs; of a custom derivative the function alone."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one

"""Convolutions whose gradients a CPU computes fast inside loops, too.

XLA's CPU backend has a fast kernel for one order of axes and brings others into it outside loops
alone; the gradients that JAX derives have others (measured in a scan, 3 x 3 x 32 x 32: 45 times as
slow). Here they are written out in that order; other devices see JAX's. The file exists so that
micro-batches (train/gradient.py) cost what a batch costs.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from vlp_jax.core.types import Array

ORDER = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], ...]
Sizes = tuple[int, ...]


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **how: Any) -> Array:
    """jax.lax.conv_general_dilated of flax.linen.Conv, its `conv_general_dilated`.

    float[B, H, W, I] by [kh, kw, I, O] -> [B, H', W', O]; whatever is dilated, grouped or of
    another number of axes is left to JAX.
    """
    dilated = any(any(n != 1 for n in how.get(f"{side}_dilation") or ()) for side in ("lhs", "rhs"))
    others = how.get("precision") or how.get("preferred_element_type")
    if x.ndim != 4 or dilated or others or how.get("feature_group_count", 1) != 1:
        return lax.conv_general_dilated(x, kernel, strides, padding, **how)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _conv(x, kernel, tuple(strides), tuple((int(a), int(b)) for a, b in padding))


def _plain(x: Array, kernel: Array, strides: Sizes, pads: Pads) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=ORDER)


_conv = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _forward(x: Array, kernel: Array, strides: Sizes, pads: Pads) -> tuple[Array, tuple]:
    return _plain(x, kernel, strides, pads), (x, kernel)


def _backward(strides: Sizes, pads: Pads, kept: tuple, slope: Array) -> tuple[Array, Array]:
    how = dict(strides=strides, pads=pads)
    ways = dict(cpu=functools.partial(_written, **how), default=functools.partial(_derived, **how))
    return lax.platform_dependent(*kept, slope, **ways)


_conv.defvjp(_forward, _backward)


def _derived(x: Array, kernel: Array, slope: Array, strides: Sizes, pads: Pads) -> tuple:
    """JAX's."""
    return jax.vjp(lambda x, kernel: _plain(x, kernel, strides, pads), x, kernel)[1](slope)


def _written(x: Array, kernel: Array, slope: Array, strides: Sizes, pads: Pads) -> tuple:
    """By two convolutions in ORDER: of the slope, spread by the strides, with the kernel turned
    round, and of the input with the slope."""
    to_x, to_kernel = [], []
    for axis, (stride, (low, _)) in enumerate(zip(strides, pads, strict=True)):
        size, taps = x.shape[axis + 1], kernel.shape[axis]
        spread = (slope.shape[axis + 1] - 1) * stride + 1
        to_x.append((taps - 1 - low, size + low - spread))
        to_kernel.append((low, taps - 1 + spread - size - low))
    run = functools.partial(lax.conv_general_dilated, dimension_numbers=ORDER)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)  # [kh, kw, O, I]
    dx = run(slope, turned, (1, 1), to_x, lhs_dilation=strides)
    across = x.transpose(3, 1, 2, 0), slope.transpose(1, 2, 0, 3)  # [I, H, W, B], [H', W', B, O]
    dkernel = run(*across, (1, 1), to_kernel, rhs_dilation=strides)  # [I, kh, kw, O]
    return dx, dkernel.transpose(1, 2, 0, 3)

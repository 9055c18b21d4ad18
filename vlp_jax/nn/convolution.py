"""Convolutions that a CPU computes fast: small maps as matrix products, and the gradients of large
ones in the order of axes that it likes.

XLA's CPU backend takes two to five times as long for a convolution of few places and many channels
as for the product of its patches (JAX 0.12, 3 x 3, 8 x 8 maps of 1,280 channels: 220 ms and 55,
with gradients 546 and 137), and for one tap, too. It has a fast kernel for one order of axes and
brings others into it outside loops alone; the gradients that JAX derives have others (in a scan,
3 x 3 x 32 x 32: 45 times as slow), so they are written out in that order. Other devices see JAX's.
The file exists so that micro-batches (train/gradient.py) cost what a batch costs, and a U-Net what
its products cost.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vlp_jax.core.types import Array

ORDER = ("NHWC", "HWIO", "NHWC")
FEW = 512  # places of a map, of all examples: more make patches costlier than a convolution
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


_conv = jax.custom_vjp(lambda *given: _forward(*given)[0], nondiff_argnums=(2, 3))


def _forward(x: Array, kernel: Array, strides: Sizes, pads: Pads) -> tuple[Array, tuple]:
    how = dict(strides=strides, pads=pads)
    run = functools.partial(_plain, **how)
    if not _small(x, kernel, **how):
        return run(x, kernel), (x, kernel)
    ways = dict(cpu=functools.partial(_product, **how), default=run)
    return lax.platform_dependent(x, kernel, **ways), (x, kernel)


def _backward(strides: Sizes, pads: Pads, kept: tuple, slope: Array) -> tuple[Array, Array]:
    how = dict(strides=strides, pads=pads)
    derived = functools.partial(_derived, _plain, **how)
    small = _small(*kept, **how)
    cpu = functools.partial(_derived, _product) if small else _written
    ways = dict(cpu=functools.partial(cpu, **how), default=derived)
    return lax.platform_dependent(*kept, slope, **ways)


_conv.defvjp(_forward, _backward)


def _places(x: Array, kernel: Array, strides: Sizes, pads: Pads) -> Sizes:
    """Height and width of what comes out."""
    sizes = zip(x.shape[1:3], kernel.shape, strides, pads, strict=False)
    return tuple((size + sum(pad) - taps) // stride + 1 for size, taps, stride, pad in sizes)


def _small(x: Array, kernel: Array, strides: Sizes, pads: Pads) -> bool:
    """Whether a CPU computes it as a product."""
    places = math.prod(_places(x, kernel, strides, pads)) * len(x)
    return kernel.shape[:2] == (1, 1) or places <= FEW


def _product(x: Array, kernel: Array, strides: Sizes, pads: Pads) -> Array:
    """Patches, [B H' W', kh kw I], by the kernel."""
    (taps, across, inputs, outputs), sizes = kernel.shape, _places(x, kernel, strides, pads)
    zero = jnp.zeros((), x.dtype)
    padded = lax.pad(x, zero, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    rows, columns = (
        [slice(at, at + stride * (size - 1) + 1, stride) for at in range(count)]
        for count, stride, size in zip((taps, across), strides, sizes, strict=True)
    )
    found = [padded[:, row, column] for row in rows for column in columns]
    patches = jnp.concatenate(found, axis=-1).reshape(-1, taps * across * inputs)
    return (patches @ kernel.reshape(-1, outputs)).reshape(len(x), *sizes, outputs)


def _derived(
    run: Callable[..., Array], x: Array, kernel: Array, slope: Array, strides: Sizes, pads: Pads
) -> tuple[Array, Array]:
    """JAX's."""
    return jax.vjp(lambda x, kernel: run(x, kernel, strides, pads), x, kernel)[1](slope)


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

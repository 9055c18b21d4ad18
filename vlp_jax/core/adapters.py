"""The leaves of an adapter (LoRA, arXiv:2106.09685) beside the kernel that it changes.

Beside `kernel` [*in, *out] lie, float32, with r the rank and n the maps that the kernel holds side
by side, each of which has an adapter of its own (queries, keys and values, [D, H, 3, K]; else n is
1 and no axis of the kernel):

  lora_a [*in, n, r]   lora_b [r, *out]   lora_scale [n, r], constant: alpha / r

A stack of layers (nn/transformer.py) has one more axis in front of all of them. The file exists so
that layers, the optimiser and files of other libraries mean the same leaves.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from vlp_jax.core.pytree import flatten, matches, unflatten
from vlp_jax.core.types import Array, Params

A, B, SCALE = "lora_a", "lora_b", "lora_scale"
PATHS = (rf"(.*/)?({A}|{B}|{SCALE})",)
CONSTANT = (rf"(.*/)?{SCALE}",)
NEW_ROWS = "new_rows"  # of nn/embed.py
ANEW = (*PATHS, rf"(.*/)?{NEW_ROWS}")  # what no released weights have


class Sides(NamedTuple):
    """How a layer reads its kernel. inputs: how many axes are inputs; maps: n, see above."""

    inputs: int
    maps: int = 1


class Adapter(NamedTuple):
    """The three leaves of one kernel."""

    a: Any
    b: Any
    scale: Any


def names(kernel: str) -> tuple[str, str, str]:
    """Paths of the leaves beside the path of a kernel."""
    module = kernel.removesuffix("kernel")
    return tuple(module + name for name in Adapter(A, B, SCALE))


def shapes(kernel: tuple[int, ...], sides: Sides, rank: int, stack: int = 0) -> Adapter:
    """Shapes of a kernel's adapter; stack: how many axes of the kernel are layers."""
    layers, inputs = kernel[:stack], kernel[stack : stack + sides.inputs]
    return Adapter(
        (*layers, *inputs, sides.maps, rank),
        (*layers, rank, *kernel[stack + sides.inputs :]),
        (*layers, sides.maps, rank),
    )


def of_rank(adapter: Adapter, rank: int) -> Adapter:
    """The shapes of an adapter with another rank."""
    stack = len(adapter.scale) - 2
    a, scale = ((*shape[:-1], rank) for shape in (adapter.a, adapter.scale))
    return Adapter(a, (*adapter.b[:stack], rank, *adapter.b[stack + 1 :]), scale)


def kernel_shape(adapter: Adapter) -> tuple[int, ...]:
    """The shape of the kernel that an adapter of these shapes changes."""
    stack = len(adapter.scale) - 2
    return (*adapter.a[:-2], *adapter.b[stack + 1 :])


def adapters(flat: Mapping[str, Any]) -> Iterator[tuple[str, Adapter]]:
    """(path of the kernel, its adapter) of a flat tree."""
    for path in flat:
        if path == B or path.endswith(f"/{B}"):
            kernel = path.removesuffix(B) + "kernel"
            yield kernel, Adapter(*(flat[name] for name in names(kernel)))


def joined(one: Adapter, two: Adapter) -> Adapter:
    """Two adapters of a kernel as one, of both ranks."""
    at = one.scale.ndim - 2
    axes = Adapter(-1, at, -1)
    sets = zip(one, two, axes, strict=True)
    return Adapter(*(jnp.concatenate(pair, axis) for *pair, axis in sets))


def present(params: Params) -> bool:
    """Whether a tree holds any adapter."""
    return any(matches(path, PATHS) for path in flatten(params))


def product(adapter: Adapter, xp: Any = jnp) -> Array:
    """What an adapter adds to its kernel, float32[*kernel]; xp: jax.numpy or numpy."""
    a, b, scale = (xp.asarray(leaf, xp.float32) for leaf in adapter)
    stack, (maps, rank) = scale.ndim - 2, scale.shape[-2:]
    layers, inputs, outputs = scale.shape[:stack], a.shape[stack:-2], b.shape[stack + 1 :]
    last = outputs[-1] if maps > 1 else 1
    a = a.reshape(-1, math.prod(inputs), maps, rank) * scale.reshape(-1, 1, maps, rank)
    b = b.reshape(len(a), rank, -1, maps, last)  # [L, r, H, n, K]
    out = xp.einsum("linr,lrhnk->lihnk", a, b)
    return out.reshape(*layers, *inputs, *outputs)


def fold(params: Params, xp: Any = jnp) -> Params:
    """Every adapter added to its kernel, W + scale a b in float32 and then in the kernel's dtype; a
    tree without adapters. Raises KeyError for an adapter without its kernel.
    """
    flat = flatten(params)
    found = {}
    for kernel, adapter in adapters(flat):
        whole = xp.asarray(flat[kernel], xp.float32) + product(adapter, xp)
        found[kernel] = whole.astype(flat[kernel].dtype)
    rest = {path: leaf for path, leaf in flat.items() if not matches(path, PATHS)}
    return unflatten(rest | found)

"""Adapters of linear layers and convolutions (LoRA, arXiv:2106.09685): y + ((x a) scale) b beside a
kernel that stays as it is. Their leaves: core/adapters.py.

A layer adds its adapter's two thin products where its parameters hold one; flax's interceptor finds
it by them, so that no network and no method knows of adapters, stacked layers and fused maps
included. The other way, to fold a b into the kernel before a network sees it, is what an export
does (core/adapters.py `fold`), and not training. Per adapted kernel of I inputs and O outputs over
T tokens, r beside I and O:

  thin    forward 2 T r (I + O) FLOPs more, backward twice that; bytes: T n r activations
  folded  forward 2 r I O more, backward 2 T I O (the kernel's whole gradient) and 4 r I O more;
          bytes: a second kernel and its gradient, 8 I O in float32

At rank 4 on the attentions of SD 1 (128 maps, 93.5 million kernel entries, 797,184 of adapters)
thin products add 1.5 % to these maps' forward pass; folding would double their backward pass and
take 0.7 GiB, of XL (560 maps, 0.96 billion entries) 7.1 GiB, and in bfloat16 lose updates below
half a unit of the kernel's last place. The file exists as the one place where an adapter is
computed.
"""

import contextlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core import adapters
from vlp_jax.core.adapters import Adapter, Sides
from vlp_jax.core.pytree import flatten
from vlp_jax.core.types import Array, Params
from vlp_jax.nn.attention import Project


def sides(module: nn.Module) -> Sides | None:
    """How a layer reads its kernel; None where it can have no adapter."""
    if isinstance(module, Project):  # [H, n, K]: maps of H heads, one beside the other
        return Sides(module.axes, module.into[-2] if len(module.into) == 3 else 1)
    if isinstance(module, nn.Dense):
        return Sides(1)
    if isinstance(module, nn.Conv) and module.feature_group_count == 1:
        return Sides(len(module.kernel_size) + 1)
    return None


class Linear(NamedTuple):
    """A layer that can have an adapter: the kernel's shape, of which `stack` axes are layers, and
    how it is read."""

    shape: tuple[int, ...]
    stack: int
    sides: Sides

    def adapter(self, rank: int) -> Adapter:
        """Shapes of its adapter."""
        return adapters.shapes(self.shape, self.sides, rank, self.stack)


def linears(net: nn.Module, inputs: tuple) -> dict[str, Linear]:
    """{path of a kernel: its layer} of every layer that can have an adapter.

    inputs: shapes of a call that makes every parameter (methods/base.py Part).
    """
    found: dict[str, tuple[Sides, int]] = {}

    def record(run: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        out, module = run(*args, **kwargs), context.module
        its = sides(module) if context.method_name == "__call__" else None
        if its is not None:
            own = module.get_variable("params", "kernel").ndim
            found["/".join((*module.scope.path, "kernel"))] = its, own
        return out

    with nn.intercept_methods(record):
        made = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    whole = {path: leaf.shape for path, leaf in flatten(made.get("params", {})).items()}
    return {
        path: Linear(whole[path], len(whole[path]) - own, its) for path, (its, own) in found.items()
    }


def adapted(params: Params) -> contextlib.AbstractContextManager:
    """While it is open, a network of these parameters computes with the adapters among them."""
    if adapters.present(params):
        return nn.intercept_methods(_add)
    return contextlib.nullcontext()


def _add(run: Any, args: tuple, kwargs: dict, context: Any) -> Any:
    """The interceptor: the layer's output with its adapter's."""
    module, out = context.module, run(*args, **kwargs)
    if context.method_name != "__call__" or not module.has_variable("params", adapters.B):
        return out
    own = (module.get_variable("params", name) for name in (adapters.A, adapters.B, adapters.SCALE))
    return out + thin(module, args[0], Adapter(*own), out)


def thin(module: nn.Module, x: Array, adapter: Adapter, like: Array) -> Array:
    """((x a) scale) b in the shape and dtype of the layer's output `like`, float[..., *out]."""
    a, b, scale = (leaf.astype(like.dtype) for leaf in adapter)
    maps, rank = scale.shape
    x = x.astype(like.dtype)
    if isinstance(module, nn.Conv):
        how = dict(features=maps * rank, use_bias=False, kernel_init=nn.initializers.zeros)
        narrow = module.clone(parent=None, name=None, **how)
        h = narrow.apply({"params": {"kernel": a.reshape(*a.shape[:-2], -1)}}, x)
    else:
        count = a.ndim - 2
        h = jnp.tensordot(x, a.reshape(*a.shape[:-2], -1), count)  # [..., n r]
    h = h.reshape(*h.shape[:-1], maps, rank) * jax.lax.stop_gradient(scale)
    if maps == 1:
        out = h[..., 0, :] @ b.reshape(rank, -1)
    else:
        out = jnp.einsum("...nr,rhnk->...hnk", h, b)
    return out.reshape(like.shape)

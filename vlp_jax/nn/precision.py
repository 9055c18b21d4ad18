"""Names for compute precision, rematerialisation and activations, so that a config can hold them as
strings.

Parameters, softmax, norm statistics and losses are always float32; `dtype` is what matrix products
run in. The file exists to refuse a misspelt name before anything is compiled.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x), the activation of the OpenAI weights (openai/CLIP model.py)."""
    return x * jax.nn.sigmoid(1.702 * x)


def _phi(x: Array) -> Array:
    """Cumulative standard normal."""
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Exact GELU, x * Phi(x), as torch.nn.GELU() (arXiv:1606.08415).

    The derivative is recomputed from x in one pass; XLA would keep erf in memory and pass over it
    twice more.
    """
    wide = x.astype(jnp.float32)
    return (wide * _phi(wide)).astype(x.dtype)


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * math.pi) ** -0.5
    return ((gradient * (_phi(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of GELU (SigLIP, big_vision)."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.checkpoint_dots,
    "weight_dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def pick(table: dict, name: str, key: str) -> object:
    """Looks a name up in one of the tables above.

    Raises:
      UserError: an unknown name; the message gives the config key and the nearest valid name.
    """
    if name not in table:
        raise UserError(f"{key}: unknown {name!r}{nearest(name, table)}")
    return table[name]


def remat(block: type[nn.Module], policy: str, scanned: bool) -> type[nn.Module]:
    """Wraps a block class so that its activations are recomputed in the backward pass as the policy
    says.
    """
    chosen = pick(REMAT_POLICIES, policy, "remat")
    if chosen is None:
        return block
    return nn.remat(block, policy=chosen, prevent_cse=not scanned)

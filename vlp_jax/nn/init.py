"""Weight initialisation of transformer blocks, by name.

`clip` is the text tower of openai/CLIP (`initialize_parameters`), `torch` is what its image tower
is left at (framework defaults), `xavier` is the ViT of big_vision, `mae` that of MAE, `bert` is
normal(0.02) everywhere, `linear` (latent diffusion) the framework's default of every kernel. The
file exists because a tower initialised with another tower's rule trains, only worse.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
from jax.nn import initializers as jinit

from vlp_jax.core.errors import UserError, nearest

Init = Callable[..., jax.Array]
torch_linear = jinit.variance_scaling(1 / 3, "fan_in", "uniform")  # U(-1, 1) / sqrt(fan in)


@dataclasses.dataclass(frozen=True)
class BlockInit:
    """Initialisers of one block; kernels take [in..., out...] shapes with the stated flattening."""

    qkv: Init
    out: Init
    fc1: Init
    fc2: Init
    fc1_bias: Init = jinit.zeros
    fc2_bias: Init = jinit.zeros


def uniform(bound: float) -> Init:
    """U(-bound, bound)."""
    return lambda key, shape, dtype="float32": jax.random.uniform(key, shape, dtype, -bound, bound)


def _clip(width: int, hidden: int, layers: int) -> BlockInit:
    del hidden
    residual = jinit.normal(width**-0.5 * (2 * layers) ** -0.5)
    return BlockInit(
        qkv=jinit.normal(width**-0.5),
        out=residual,
        fc1=jinit.normal((2 * width) ** -0.5),
        fc2=residual,
    )


def _torch(width: int, hidden: int, layers: int) -> BlockInit:
    del layers
    wide, narrow = uniform(width**-0.5), uniform(hidden**-0.5)
    # Xavier-uniform over the fused [width, 3 width] projection, as torch.nn.MultiheadAttention.
    return BlockInit(
        qkv=uniform(math.sqrt(6 / (4 * width))),
        out=wide,
        fc1=wide,
        fc2=narrow,
        fc1_bias=wide,
        fc2_bias=narrow,
    )


def _xavier(width: int, hidden: int, layers: int) -> BlockInit:
    del layers
    square, tall = uniform(math.sqrt(6 / (2 * width))), uniform(math.sqrt(6 / (width + hidden)))
    bias = jinit.normal(1e-6)
    return BlockInit(qkv=square, out=square, fc1=tall, fc2=tall, fc1_bias=bias, fc2_bias=bias)


def _mae(width: int, hidden: int, layers: int) -> BlockInit:
    del layers
    square, tall = uniform(math.sqrt(6 / (2 * width))), uniform(math.sqrt(6 / (width + hidden)))
    fused = uniform(math.sqrt(6 / (4 * width)))  # Xavier over one [width, 3 width] projection
    return BlockInit(qkv=fused, out=square, fc1=tall, fc2=tall)


def _bert(width: int, hidden: int, layers: int) -> BlockInit:
    del width, hidden, layers
    normal = jinit.normal(0.02)
    return BlockInit(qkv=normal, out=normal, fc1=normal, fc2=normal)


def _linear(width: int, hidden: int, layers: int) -> BlockInit:
    del width, hidden, layers
    return BlockInit(qkv=torch_linear, out=torch_linear, fc1=torch_linear, fc2=torch_linear)


_RULES = {"clip": _clip, "torch": _torch, "xavier": _xavier, "mae": _mae, "bert": _bert}
_RULES |= {"linear": _linear}


def linear_init(name: str, fan_in: int, width: int) -> Init:
    """Initialiser of a patch embedding or a linear layer beside the blocks: Xavier over [fan_in,
    width] in MAE, torch's default in all others.
    """
    return uniform(math.sqrt(6 / (fan_in + width)) if name == "mae" else 1 / math.sqrt(fan_in))


def token_init(name: str, width: int) -> Init:
    """Initialiser of class tokens and learned positions: std 0.02 in MAE, else width^-0.5."""
    return jinit.normal(0.02 if name == "mae" else width**-0.5)


def block_init(name: str, width: int, hidden: int, layers: int) -> BlockInit:
    """Returns the initialisers of a block of the given sizes.

    Raises:
      UserError: an unknown name.
    """
    if name not in _RULES:
        raise UserError(f"init: unknown {name!r}{nearest(name, _RULES)}")
    return _RULES[name](width, hidden, layers)

"""Transformer blocks, stacked on a leading axis and run by one scan that may be unrolled.

The stack keeps every weight as [L, ...]: pods compile one block, small runs unroll it
(`unroll=True`), checkpoints and sharding rules see the same tree either way. The file exists as the
only transformer body of the package.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.types import Array
from vlp_jax.nn import dropout
from vlp_jax.nn.attention import SelfAttention
from vlp_jax.nn.init import BlockInit, Init, block_init
from vlp_jax.nn.precision import ACTIVATIONS, DTYPES, pick, remat
from vlp_jax.parallel.constrain import constrain_batch


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Sizes and switches of a stack of blocks.

    Attributes:
      width, num_layers: D and L.
      num_heads, head_dim: H and K; head_dim 0 means width / num_heads.
      hidden: width of the MLP.
      activation: a name of nn/precision.py.
      norm_eps: 1e-5 in CLIP, 1e-6 in SigLIP, MAE and flax's default.
      init: a name of nn/init.py.
      dropout, drop_path: rates in [0, 1); drop_path grows linearly with depth to this value.
      dtype, remat: names of nn/precision.py.
      unroll: compile every layer separately instead of one loop body.
      causal, attention: see nn/attention.py attend (`attention` is its implementation).
      post_norm: norms follow the sums, as in BERT; else they stand before the branches.
    """

    width: int
    num_layers: int
    num_heads: int
    hidden: int
    head_dim: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-5
    init: str = "torch"
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    causal: bool = False
    attention: str = "auto"
    post_norm: bool = False

    def block_init(self) -> BlockInit:
        """The initialisers of one block."""
        return block_init(self.init, self.width, self.hidden, self.num_layers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * scale + bias over the last axis, in float32.

    The backward pass is written out: three sums per row instead of the chain that automatic
      differentiation leaves.
    """
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array, eps: float) -> tuple[Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + eps)
    return (wide - mean) * inverse * scale + bias, (x, scale, mean, inverse)


def _layer_norm_backward(eps: float, kept: tuple, gradient: Array) -> tuple[Array, Array, Array]:
    x, scale, mean, inverse = kept
    normal = (x.astype(jnp.float32) - mean) * inverse
    rows = tuple(range(x.ndim - 1))
    scaled = gradient * scale
    along = scaled.mean(-1, keepdims=True), (scaled * normal).mean(-1, keepdims=True)
    dx = inverse * (scaled - along[0] - normal * along[1])
    return dx.astype(x.dtype), (gradient * normal).sum(rows), gradient.sum(rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with float32 statistics; casts its result to `dtype`."""

    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.eps).astype(self.dtype)


class Mlp(nn.Module):
    """fc2(activation(fc1(x))) on [B, T, D]."""

    hidden: int
    activation: str
    inits: tuple[Init, Init, Init, Init]  # fc1 kernel, fc1 bias, fc2 kernel, fc2 bias
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fc1, fc1_bias, fc2, fc2_bias = self.inits
        activate = pick(ACTIVATIONS, self.activation, "activation")
        hidden = nn.Dense(
            self.hidden, dtype=self.dtype, kernel_init=fc1, bias_init=fc1_bias, name="fc1"
        )(x)
        out = nn.Dense(
            x.shape[-1], dtype=self.dtype, kernel_init=fc2, bias_init=fc2_bias, name="fc2"
        )
        return out(activate(hidden))  # [B, T, F] -> [B, T, D]


class Block(nn.Module):
    """x += attention(norm1(x)); x += mlp(norm2(x)), or under post_norm x = norm1(x + attention(x));
    x = norm2(x + mlp(x)). Shaped as a scan body: returns (x, None).
    """

    config: StackConfig

    @nn.compact
    def __call__(
        self, x: Array, layer: Array, mask: Array | None, rng: Array | None
    ) -> tuple[Array, None]:
        c = self.config
        dtype, init = DTYPES[c.dtype], c.block_init()
        rng = None if rng is None else _fold_layer(rng, layer)
        depth_rate = c.drop_path * layer / max(1, c.num_layers - 1)

        def residual(x: Array, branch: Array, name: str) -> Array:
            branch = dropout.dropout(branch, c.dropout, rngs.fold(rng, name))
            if c.drop_path:
                branch = dropout.drop_path(branch, depth_rate, rngs.fold(rng, name + "_path"))
            return x + branch

        x = barrier(constrain_batch(x))
        heads = (c.num_heads, c.head_dim or c.width // c.num_heads)
        how = (init.qkv, init.out, dtype, c.causal, c.attention)
        attention = SelfAttention(*heads, *how, name="attn")
        norm1, norm2 = (LayerNorm(c.norm_eps, dtype, name=name) for name in ("norm1", "norm2"))
        if c.post_norm:
            x = norm1(residual(x, attention(x, mask), "attn"))
        else:
            x = residual(x, attention(norm1(x), mask), "attn")
        x = barrier(x)
        inits = (init.fc1, init.fc1_bias, init.fc2, init.fc2_bias)
        mlp = Mlp(c.hidden, c.activation, inits, dtype, name="mlp")
        if c.post_norm:
            return norm2(residual(x, mlp(x), "mlp")), None
        return residual(x, mlp(norm2(x)), "mlp"), None


def barrier(x: Array) -> Array:
    """Keeps the residual stream in memory; XLA would otherwise fuse every later reader with all
    earlier sums.
    """
    return jax.lax.optimization_barrier(x)


def _fold_layer(rng: Array, layer: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(rng, layer)


def run_blocks(
    config: StackConfig, x: Array, mask: Array | None = None, rng: Array | None = None
) -> Array:
    """Runs L blocks whose weights lie stacked under `blocks` of the calling module (inside its
    @nn.compact).

    Args:
      config: sizes and switches.
      x: float[B, T, D].
      mask: bool broadcastable to [B, H, T, T], True where a query may look.
      rng: key[B], or None for no dropout.

    Returns:
      float[B, T, D] in the compute dtype, not normalised but under post_norm.
    """
    pick(DTYPES, config.dtype, "dtype")
    stacked = nn.scan(
        remat(Block, config.remat, scanned=not config.unroll),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=config.num_layers,
        unroll=config.num_layers if config.unroll else 1,
    )
    layers = jnp.arange(config.num_layers)
    x, _ = stacked(config, name="blocks")(x.astype(DTYPES[config.dtype]), layers, mask, rng)
    return constrain_batch(x)

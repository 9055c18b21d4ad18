"""LayerNorm (arXiv:1607.06450) and RMSNorm (arXiv:1910.07467) over the last axis.

Statistics are in float32 and the result is cast once. The file exists so that every network takes
its norms by name from one place.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


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
    """`layer_norm` with learned scale and, unless `use_bias` is False, bias; casts its result to
    `dtype`."""

    eps: float
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1],)
        scale, bias = self.param("scale", nn.initializers.ones, shape), jnp.zeros(shape)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape)
        return layer_norm(x, scale, bias, self.eps).astype(self.dtype)


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32."""
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps) * scale


class RMSNorm(nn.Module):
    """`rms_norm` with a learned scale; casts its result to `dtype`."""

    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return rms_norm(x, scale, self.eps).astype(self.dtype)


NORMS = {  # by name
    "layer": LayerNorm,
    "scale": functools.partial(LayerNorm, use_bias=False),  # MPT
    "rms": RMSNorm,
}

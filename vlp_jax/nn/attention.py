"""Multi-head attention: self-attention with a fused projection and cross-attention from few
queries.

The softmax runs in float32 whatever the compute dtype. The file exists as the one place where an
attention kernel is chosen.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array
from vlp_jax.nn.init import Init


def attend(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Scaled dot-product attention.

    Args:
      query: float[B, T, H, K].
      key: float[B, S, H, K].
      value: float[B, S, H, K].
      mask: bool broadcastable to [B, H, T, S], True where a query may look. Worked example: the
        causal mask of three tokens is [[1,0,0],[1,1,0],[1,1,1]].

    Returns:
      float[B, T, H, K] in the dtype of `value`.
    """
    scaled = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bthk,bshk->bhts", scaled, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, value)


class Project(nn.Module):
    """A linear map from or to an axis of heads, computed as one plain matrix product.

    Attributes:
      into: shape of the output axes, e.g. (H, 3, K); the kernel is [inputs..., *into].
      axes: how many trailing axes of the input are inputs: 1 for [..., D], 2 for [..., H, K].
    """

    into: tuple[int, ...]
    axes: int = 1
    kernel_init: Init = nn.initializers.lecun_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        rows, inputs = x.shape[: -self.axes], x.shape[-self.axes :]
        kernel = self.param("kernel", self._flat_init(inputs), (*inputs, *self.into))
        bias = self.param("bias", nn.initializers.zeros, self.into)
        flat = kernel.astype(self.dtype).reshape(math.prod(inputs), math.prod(self.into))
        out = x.astype(self.dtype).reshape(*rows, -1) @ flat + bias.astype(self.dtype).reshape(-1)
        return out.reshape(*rows, *self.into)

    def _flat_init(self, inputs: tuple[int, ...]) -> Init:
        """Draws [fan_in, fan_out], so that every initialiser sees the true fans."""

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return self.kernel_init(key, (math.prod(inputs), math.prod(self.into))).reshape(shape)

        return init


class SelfAttention(nn.Module):
    """Self-attention over [B, T, D] with one fused query-key-value product.

    Attributes:
      num_heads, head_dim: H and K; D need not equal H K.
      qkv_init, out_init: initialisers of the two kernels.
    """

    num_heads: int
    head_dim: int
    qkv_init: Init
    out_init: Init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        heads = (self.num_heads, 3, self.head_dim)
        qkv = Project(heads, 1, self.qkv_init, self.dtype, name="qkv")(x)  # [B, T, H, 3, K]
        out = attend(qkv[..., 0, :], qkv[..., 1, :], qkv[..., 2, :], mask)  # [B, T, H, K]
        return Project(x.shape[-1:], 2, self.out_init, self.dtype, name="out")(out)


class CrossAttention(nn.Module):
    """Attention of [B, T, D] queries over [B, S, D'] context; key and value share one product.

    Attributes:
      num_heads, head_dim: H and K.
      features: width of the output.
    """

    num_heads: int
    head_dim: int
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array, mask: Array | None = None) -> Array:
        heads, head_dim = self.num_heads, self.head_dim
        query = Project((heads, head_dim), dtype=self.dtype, name="query")(x)  # [B, T, H, K]
        key_value = Project((heads, 2, head_dim), dtype=self.dtype, name="key_value")(context)
        out = attend(query, key_value[..., 0, :], key_value[..., 1, :], mask)
        return Project((self.features,), 2, dtype=self.dtype, name="out")(out)

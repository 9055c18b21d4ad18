"""Multi-head attention: self-attention with a fused projection and cross-attention from few queries.

The softmax runs in float32 whatever the compute dtype. The file exists as the one place where an attention kernel
is chosen.
"""

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
      mask: bool broadcastable to [B, H, T, S], True where a query may look. Worked example: the causal mask of
        three tokens is [[1,0,0],[1,1,0],[1,1,1]].

    Returns:
      float[B, T, H, K] in the dtype of `value`.
    """
    scaled = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bthk,bshk->bhts", scaled, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, value)


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
        heads = (3, self.num_heads, self.head_dim)
        qkv = nn.DenseGeneral(heads, dtype=self.dtype, kernel_init=self.qkv_init, name="qkv")(x)  # [B, T, 3, H, K]
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        out = attend(query, key, value, mask)  # [B, T, H, K]
        project = nn.DenseGeneral(
            x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=self.out_init, name="out"
        )
        return project(out)


class CrossAttention(nn.Module):
    """Attention of [B, T, D] queries over [B, S, D'] context; key and value share one fused product.

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
        heads = (self.num_heads, self.head_dim)
        query = nn.DenseGeneral(heads, dtype=self.dtype, name="query")(x)  # [B, T, H, K]
        key_value = nn.DenseGeneral((2, *heads), dtype=self.dtype, name="key_value")(context)  # [B, S, 2, H, K]
        out = attend(query, key_value[:, :, 0], key_value[:, :, 1], mask)
        return nn.DenseGeneral(self.features, axis=(-2, -1), dtype=self.dtype, name="out")(out)

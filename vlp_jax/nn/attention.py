"""Multi-head attention: self-attention with a fused projection and cross-attention from few
queries.

The softmax runs in float32 whatever the compute dtype. The file exists as the one place where an
attention kernel is chosen.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array
from vlp_jax.nn.cache import write
from vlp_jax.nn.init import Init

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
# Device kind -> tokens from which cuDNN's fused kernel is the faster in a half precision, as
# experiments/benchmarks/attention_table.py finds it. No GPU was measured yet, so `auto` is `xla`.
CUDNN_FROM: dict[str, int] = {}
_LOWEST = jnp.finfo(jnp.float32).min


def choose(implementation: str, tokens: int, dtype: jnp.dtype) -> str:
    """`xla` or `cudnn` for an attention over `tokens` keys; `auto` looks into CUDNN_FROM.

    Raises:
      UserError: an unknown name, or `cudnn` where it cannot run.
    """
    if implementation not in IMPLEMENTATIONS:
        hint = nearest(implementation, IMPLEMENTATIONS)
        raise UserError(f"attention: unknown {implementation!r}{hint}")
    if implementation == "xla":
        return "xla"
    half = dtype in (jnp.bfloat16, jnp.float16)
    able = half and jax.default_backend() == "gpu"
    if implementation == "cudnn" and not able:
        raise UserError("attention=cudnn needs an NVIDIA GPU and dtype=bfloat16 or float16")
    kind = jax.devices()[0].device_kind if able else ""
    wins = tokens >= CUDNN_FROM.get(kind, math.inf)
    return "cudnn" if implementation == "cudnn" or wins else "xla"


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    causal: bool = False,
    implementation: str = "auto",
) -> Array:
    """Scaled dot-product attention.

    Args:
      query: float[B, H, T, K].
      key: float[B, H, S, K].
      value: float[B, H, S, K].
      mask: bool broadcastable to [B, H, T, S], True where a query may look.
      causal: query t looks at keys up to t only. Worked example: among three tokens query 1 sees
        keys 0 and 1, as under the mask [[1,0,0],[1,1,0],[1,1,1]].
      implementation: `auto`, `xla` or `cudnn`, see `choose`.

    Returns:
      float[B, H, T, K] in the dtype of `value`. Heads come before tokens because both products then
      read their operands in order: on a CPU 10 to 40 % of the attention's time.
    """
    if choose(implementation, key.shape[2], value.dtype) == "cudnn":
        q, k, v = (rearrange(x, "b h t k -> b t h k") for x in (query, key, value))
        out = jax.nn.dot_product_attention(
            q, k, v, mask=_four_axes(mask), is_causal=causal, implementation="cudnn"
        )
        return rearrange(out, "b t h k -> b h t k")
    scaled = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bhtk,bhsk->bhts", scaled, key, preferred_element_type=jnp.float32)
    if causal:
        logits = jnp.where(jnp.tri(*logits.shape[2:], dtype=bool), logits, _LOWEST)
    if mask is not None:
        logits = jnp.where(mask, logits, _LOWEST)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhts,bhsk->bhtk", weights, value)


def _four_axes(mask: Array | None) -> Array | None:
    return None if mask is None else mask.reshape((1,) * (4 - mask.ndim) + mask.shape)


class Project(nn.Module):
    """A linear map from or to an axis of heads, computed as one plain matrix product.

    Attributes:
      into: shape of the output axes, e.g. (H, 3, K); the kernel is [inputs..., *into].
      axes: how many trailing axes of the input are inputs: 1 for [..., D], 2 for [..., H, K].
      use_bias: with a bias, of the shape of the output axes.
    """

    into: tuple[int, ...]
    axes: int = 1
    kernel_init: Init = nn.initializers.lecun_normal()
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        rows, inputs = x.shape[: -self.axes], x.shape[-self.axes :]
        kernel = self.param("kernel", self._flat_init(inputs), (*inputs, *self.into))
        flat = kernel.astype(self.dtype).reshape(math.prod(inputs), math.prod(self.into))
        out = x.astype(self.dtype).reshape(*rows, -1) @ flat
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.into)
            out = out + bias.astype(self.dtype).reshape(-1)
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
      causal, implementation: see `attend`.
      qkv_bias: of the first product; the last has one always.
    """

    num_heads: int
    head_dim: int
    qkv_init: Init
    out_init: Init
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    implementation: str = "auto"
    qkv_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        kept: tuple[Array, Array, Array] | None = None,
    ) -> Array | tuple[Array, tuple[Array, Array]]:
        """Runs the layer.

        Args:
          x: float[B, T, D].
          mask: see `attend`.
          kept: keys and values float[B, H, S, K] of earlier tokens, and the slots from which those
            of x come (nn/cache.py); mask is then over the S slots.

        Returns:
          float[B, T, D], and where there are kept ones the new keys and values, float[B, H, T, K].
        """
        heads = (self.num_heads, 3, self.head_dim)
        how = (1, self.qkv_init, self.dtype, self.qkv_bias)
        qkv = Project(heads, *how, name="qkv")(x)  # [B, T, H, 3, K]
        query, key, value = rearrange(qkv, "b t h three k -> three b h t k")  # one copy for all
        new = key, value
        if kept is not None:
            key, value = (write(old, its, kept[2]) for old, its in zip(kept, new, strict=False))
        out = attend(query, key, value, mask, self.causal, self.implementation)
        out = rearrange(out, "b h t k -> b t h k")
        out = Project(x.shape[-1:], 2, self.out_init, self.dtype, name="out")(out)
        return out if kept is None else (out, new)


class CrossAttention(nn.Module):
    """Attention of [B, T, D] queries over [B, S, D'] context; key and value share one product.

    Attributes:
      num_heads, head_dim: H and K.
      features: width of the output.
      kernel_init, out_init: initialisers of the products before and after the attention.
      implementation: see `attend`.
      qkv_bias: of the products before the attention.
    """

    num_heads: int
    head_dim: int
    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Init = nn.initializers.lecun_normal()
    out_init: Init = nn.initializers.lecun_normal()
    implementation: str = "auto"
    qkv_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Array | None,
        context: Array | tuple[Array, Array],
        mask: Array | None = None,
    ) -> Array | tuple[Array, Array]:
        """Runs the layer.

        Args:
          x: float[B, T, D]; None: no query asks.
          context: float[B, S, D'], or its keys and values.
          mask: see `attend`.

        Returns:
          float[B, T, features]; without x the keys and values of context, float[B, H, S, K].
        """
        heads = self.num_heads, self.head_dim
        how = (1, self.kernel_init, self.dtype, self.qkv_bias)
        if x is not None:
            query = Project(heads, *how, name="query")(x)  # [B, T, H, K]
        if not isinstance(context, tuple):
            both = Project((heads[0], 2, heads[1]), *how, name="key_value")(context)
            key, value = rearrange(both, "b s h two k -> two b h s k")
            context = key, value
        if x is None:
            return context
        query = rearrange(query, "b t h k -> b h t k")
        out = attend(query, *context, mask, implementation=self.implementation)
        out = rearrange(out, "b h t k -> b t h k")
        return Project((self.features,), 2, self.out_init, self.dtype, name="out")(out)

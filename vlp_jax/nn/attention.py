"""Multi-head attention: self-attention with a fused projection and cross-attention from few
queries.

The softmax runs in float32 whatever the compute dtype. The file exists as the one place where an
attention kernel is chosen.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array
from vlp_jax.nn.cache import write
from vlp_jax.nn.init import Init
from vlp_jax.nn.rotary import turn

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
# Device kind -> tokens from which cuDNN's fused kernel is the faster in a half precision, as
# experiments/benchmarks/attention_table.py finds it. No GPU was measured yet, so `auto` is `xla`.
CUDNN_FROM: dict[str, int] = {}
LARGE = 8 << 20  # products, of all heads: from here on a CPU takes the heads in turn
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
    bias: Array | None = None,
    scale: float = 0.0,
) -> Array:
    """Scaled dot-product attention.

    Args:
      query: float[B, H, T, K].
      key, value: float[B, H', S, K]; H' divides H, and H / H' queries after each other share one
        (grouped heads, arXiv:2305.13245).
      mask: bool broadcastable to [B, H, T, S], True where a query may look.
      causal: query t looks at keys up to t only. Worked example: among three tokens query 1 sees
        keys 0 and 1, as under the mask [[1,0,0],[1,1,0],[1,1,1]].
      implementation: `auto`, `xla` or `cudnn`, see `choose`.
      bias: float32 broadcastable to [B, H, T, S], added to the scaled products.
      scale: of the products; 0: K^-0.5.

    Returns:
      float[B, H, T, K] in the dtype of `value`. Heads come before tokens because both products then
      read their operands in order: on a CPU 10 to 40 % of the attention's time.
    """
    scale = scale or query.shape[-1] ** -0.5
    if choose(implementation, key.shape[2], value.dtype) == "cudnn":
        q, k, v = (rearrange(x, "b h t k -> b t h k") for x in (query, key, value))
        how = dict(mask=_four_axes(mask), is_causal=causal, scale=scale, implementation="cudnn")
        out = jax.nn.dot_product_attention(q, k, v, bias, **how)
        return rearrange(out, "b t h k -> b h t k")
    whole = functools.partial(_whole, mask=mask, causal=causal, bias=bias, scale=scale)
    if mask is None and bias is None and not causal and _many(query, key):
        ways = dict(cpu=functools.partial(_in_turn, whole), default=whole)
        return jax.lax.platform_dependent(query, key, value, **ways)
    return whole(query, key, value)


def _whole(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    causal: bool,
    bias: Array | None,
    scale: float,
) -> Array:
    """All heads at once."""
    logits = _grouped("bhtk,bhsk->bhts", query * scale, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    if causal:
        logits = jnp.where(jnp.tri(*logits.shape[2:], dtype=bool), logits, _LOWEST)
    if mask is not None:
        logits = jnp.where(mask, logits, _LOWEST)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return _grouped("bhts,bhsk->bhtk", weights, value)


def _in_turn(whole: Callable[..., Array], query: Array, key: Array, value: Array) -> Array:
    """Head by head, whose products are computed again for the gradients: they stay in a cache, not
    in memory (experiments/benchmarks/README.md, P10)."""
    each = [rearrange(x, "b h t k -> (b h) 1 1 t k") for x in (query, key, value)]
    head = jax.checkpoint(whole)
    return jax.lax.map(lambda three: head(*three), each).reshape(query.shape)


def _many(query: Array, key: Array) -> bool:
    """Of one device alone: turns would not stay on the devices that batches lie on."""
    products = math.prod(query.shape[:3]) * key.shape[2]
    return products >= LARGE and query.shape[1] == key.shape[1] and jax.device_count() == 1


def _grouped(product: str, left: Array, right: Array, **how: object) -> Array:
    """An einsum of [B, H, T, .] and [B, H', S, .] whose heads h are grouped."""
    heads, shared = left.shape[1], right.shape[1]
    if heads == shared:
        return jnp.einsum(product, left, right, **how)
    left = rearrange(left, "b (h g) t k -> b h g t k", h=shared)
    first, rest = product.split(",")
    second, out = rest.split("->")
    grouped = f"{first.replace('h', 'hg')},{second}->{out.replace('h', 'hg')}"
    out = jnp.einsum(grouped, left, right, **how)
    return rearrange(out, "b h g t s -> b (h g) t s")


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


class Place(NamedTuple):
    """What self-attention knows of places beside the order.

    turns: cosines and sines of rotary positions (nn/rotary.py), or None. bias: see `attend`.
    """

    turns: tuple[Array, Array] | None = None
    bias: Array | None = None


ANYWHERE = Place()


class SelfAttention(nn.Module):
    """Self-attention over [B, T, D] with one fused query-key-value product; where keys and values
    have fewer heads, with one for queries and one for these.

    Attributes:
      num_heads, head_dim: H and K; D need not equal H K.
      qkv_init, out_init: initialisers of the kernels.
      causal, implementation: see `attend`.
      qkv_bias, out_bias: of the first products and of the last.
      kv_heads: H' of keys and values; 0: H.
      qkv_clip: queries, keys and values are kept in [-this, this]; 0: as they are.
      scale: see `attend`.
      whole: with kept keys and values it gives those of all slots, not the new ones alone.
    """

    num_heads: int
    head_dim: int
    qkv_init: Init
    out_init: Init
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    implementation: str = "auto"
    qkv_bias: bool = True
    out_bias: bool = True
    kv_heads: int = 0
    qkv_clip: float = 0.0
    scale: float = 0.0
    whole: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        kept: tuple[Array, Array, Array] | None = None,
        place: Place = ANYWHERE,
    ) -> Array | tuple[Array, tuple[Array, Array]]:
        """Runs the layer.

        Args:
          x: float[B, T, D].
          mask: see `attend`.
          kept: keys and values float[B, H', S, K] of earlier tokens, and the slots from which those
            of x come (nn/cache.py); mask is then over the S slots.
          place: of the tokens.

        Returns:
          float[B, T, D], and where there are kept ones the new keys and values, float[B, H', T, K]
          (whole: float[B, H', S, K]).
        """
        query, key, value = self._products(x)
        if place.turns is not None:
            query, key = turn(query, place.turns), turn(key, place.turns)
        new = key, value
        if kept is not None:
            key, value = (write(old, its, kept[2]) for old, its in zip(kept, new, strict=False))
            if self.whole:  # else XLA writes twice, to return them and to read them, into copies
                key, value = jax.lax.optimization_barrier((key, value))
        how = (mask, self.causal, self.implementation, place.bias, self.scale)
        out = rearrange(attend(query, key, value, *how), "b h t k -> b t h k")
        out = Project(x.shape[-1:], 2, self.out_init, self.dtype, self.out_bias, name="out")(out)
        return out if kept is None else (out, (key, value) if self.whole else new)

    def _products(self, x: Array) -> tuple[Array, Array, Array]:
        """Query float[B, H, T, K], key and value float[B, H', T, K]."""
        how, heads = (1, self.qkv_init, self.dtype, self.qkv_bias), self.kv_heads
        clip = lambda each: jnp.clip(each, -self.qkv_clip, self.qkv_clip) if self.qkv_clip else each  # noqa: E731
        if heads in (0, self.num_heads):
            qkv = Project((self.num_heads, 3, self.head_dim), *how, name="qkv")(x)
            return tuple(rearrange(clip(qkv), "b t h three k -> three b h t k"))  # one copy
        query = Project((self.num_heads, self.head_dim), *how, name="query")(x)
        both = Project((heads, 2, self.head_dim), *how, name="key_value")(x)
        key, value = rearrange(clip(both), "b t h two k -> two b h t k")
        return rearrange(clip(query), "b t h k -> b h t k"), key, value


class CrossAttention(nn.Module):
    """Attention of [B, T, D] queries over [B, S, D'] context; key and value share one product.

    Attributes:
      num_heads, head_dim: H and K.
      features: width of the output.
      kernel_init, out_init: initialisers of the products before and after the attention.
      implementation: see `attend`.
      qkv_bias, out_bias: of the products before and after the attention.
      scale: see `attend`.
    """

    num_heads: int
    head_dim: int
    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Init = nn.initializers.lecun_normal()
    out_init: Init = nn.initializers.lecun_normal()
    implementation: str = "auto"
    qkv_bias: bool = True
    out_bias: bool = True
    scale: float = 0.0

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
        out = attend(query, *context, mask, implementation=self.implementation, scale=self.scale)
        out = rearrange(out, "b h t k -> b t h k")
        how = (2, self.out_init, self.dtype, self.out_bias)
        return Project((self.features,), *how, name="out")(out)

"""From tokens to one vector: class token, mean, attention pooling (MAP) and the text towers'
positions.

The file exists because a wrong pooling position trains without an error (clip.md, pitfall 6).
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array
from vlp_jax.nn.attention import CrossAttention
from vlp_jax.nn.init import block_init, uniform
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.transformer import Mlp

TEXT_POOLS = ("argmax", "last", "first", "mean")


class AttentionPool(nn.Module):
    """MAP head of SigLIP: one learned query attends to all tokens, then x + mlp(norm(x))
    (arXiv:2106.04560).

    Attributes:
      num_heads: H; head width is D / H.
      hidden: width of the MLP.
    """

    num_heads: int
    hidden: int
    activation: str
    norm_eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        width = tokens.shape[-1]
        probe = self.param(
            "probe", uniform((6 / (1 + width)) ** 0.5), (width,)
        )  # Xavier over [1, D]
        query = jnp.broadcast_to(probe.astype(self.dtype), (tokens.shape[0], 1, width))
        attention = CrossAttention(
            self.num_heads, width // self.num_heads, width, self.dtype, name="attn"
        )
        x = attention(query, tokens)[:, 0]  # [B, D]
        init = block_init("xavier", width, self.hidden, 1)
        inits = (init.fc1, init.fc1_bias, init.fc2, init.fc2_bias)
        mlp = Mlp(self.hidden, self.activation, inits, self.dtype, name="mlp")
        return x + mlp(LayerNorm(self.norm_eps, self.dtype, name="norm")(x))


class Pooler(nn.Module):
    """tanh of a linear layer on the first token's vector [B, D], which BERT learned on pairs of
    sentences (arXiv:1810.04805).
    """

    @nn.compact
    def __call__(self, first: Array) -> Array:
        init = nn.initializers.normal(0.02)
        dense = nn.Dense(first.shape[-1], kernel_init=init, name="dense")
        return jnp.tanh(dense(first.astype(jnp.float32)))


def pool_text(tokens: Array, ids: Array, pool: str, mask: Array | None = None) -> Array:
    """Picks the vector of a text.

    Args:
      tokens: float[B, T, D].
      ids: int32[B, T]; 0 is padding.
      pool: `argmax`: position of the largest id, the first end token in CLIP's vocabulary; `last`,
        `first`: the position's name; `mean`: over positions that are not padding.
      mask: bool[B, T], True where a token is real; without it padding is id 0.

    Returns:
      float[B, D]. Worked example: ids [49406, 320, 49407, 0] pool position 2 under `argmax`.

    Raises:
      UserError: an unknown pool.
    """
    if pool == "argmax":
        at = jnp.argmax(ids, axis=1)
        return jnp.take_along_axis(tokens, at[:, None, None], axis=1)[:, 0]
    if pool == "last":
        return tokens[:, -1]
    if pool == "first":
        return tokens[:, 0]
    if pool == "mean":
        used = (ids != 0 if mask is None else mask).astype(tokens.dtype)[:, :, None]
        return (tokens * used).sum(1) / jnp.maximum(used.sum(1), 1)
    raise UserError(f"text.pool: unknown {pool!r}{nearest(pool, TEXT_POOLS)}")

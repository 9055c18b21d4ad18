"""BERT (arXiv:1810.04805; reference: google-research/bert, transformers BertModel): a text encoder
that sees the whole text, with norms after the sums.

The file exists as the one encoder of texts that came pre-trained on language alone.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.pooling import Pooler, pool_text
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.transformer import StackConfig, run_blocks

POOLS = ("first", "mean", "pooler")


class BERT(nn.Module):
    """Token ids [B, T] to an embedding [B, E].

    Attributes:
      vocab_size, context_length: V and the longest T.
      width, num_layers, num_heads: D, L and H.
      types: token types (first or second sentence); 0: none, as in BLIP.
      pooler: gives "pooler" beside the embedding (nn/pooling.py Pooler).
      pool: what is embedded: `first` (the state of [CLS]), `mean` (over the tokens that the mask
        leaves) or `pooler`.
      embed_dim: E of a linear layer with bias on it (ALIGN); 0 leaves the D-vector.
      The others: see nn/transformer.py StackConfig.
    """

    masked: ClassVar[bool] = True  # takes a mask beside the ids
    cuttable: ClassVar[bool] = True  # given that mask, nothing after a text's end is seen

    vocab_size: Size = 30522
    context_length: Size = 512
    width: Size = 768
    num_layers: Size = 12
    num_heads: Size = 12
    mlp_ratio: float = 4.0
    types: int = 2
    pooler: bool = True
    pool: str = "first"
    embed_dim: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-12
    weight_init: str = "bert"
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    def stack_config(self) -> StackConfig:
        """The transformer body's sizes.

        Raises:
          UserError: num_heads does not divide width.
        """
        return StackConfig.of(self, "text", post_norm=True)

    @nn.compact
    def __call__(
        self,
        ids: Array,
        mask: Array | None = None,
        types: Array | None = None,
        rng: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Runs the encoder.

        Args:
          ids: int32[B, T], T <= context_length.
          mask: bool[B, T], True where a token is real; None: all are. No token looks at one that is
            not.
          types: int32[B, T], the token's type; None: all 0.
          rng: key[B] for dropout; None is deterministic.

        Returns:
          (embedding float32[B, E], {"tokens": [B, T, D], "pooled": float32[B, D]} and, where there
          is one, "pooler": float32[B, D]).

        Raises:
          UserError: T exceeds context_length, an unknown pool, or `pooler` without one.
        """
        if ids.shape[1] > self.context_length:
            raise UserError(
                f"texts of {ids.shape[1]} tokens but the text tower takes "
                f"context_length={self.context_length}"
            )
        if self.pool not in POOLS or (self.pool == "pooler" and not self.pooler):
            raise UserError(f"text.pool: unknown {self.pool!r}{nearest(self.pool, POOLS)}")
        x = self._embed(ids, types, rngs.fold(rng, "embed"))
        seen = None if mask is None else mask[:, None, None, :]  # [B, H, T, S]
        tokens = run_blocks(self.stack_config(), x, seen, rngs.fold(rng, "blocks"))
        out = {"tokens": tokens}
        if self.pooler:
            out["pooler"] = Pooler(name="pooler")(tokens[:, 0])
        if self.pool == "pooler":
            pooled = out["pooler"]
        else:
            real = jnp.ones(ids.shape, bool) if mask is None else mask
            pooled = pool_text(tokens.astype(jnp.float32), ids, self.pool, real)
        out["pooled"] = pooled
        if not self.embed_dim:
            return pooled, out
        return nn.Dense(self.embed_dim, kernel_init=_NORMAL, name="head")(pooled), out

    def _embed(self, ids: Array, types: Array | None, rng: Array | None) -> Array:
        """The normalised sum of words, places and types, [B, T, D]."""
        dtype = DTYPES[self.dtype]
        how = dict(dtype=dtype, embedding_init=_NORMAL)
        x = nn.Embed(self.vocab_size, self.width, name="token_embed", **how)(ids)
        places = self.param("pos_embed", _NORMAL, (self.context_length, self.width))
        x = x + places[: ids.shape[1]].astype(dtype)
        if self.types:
            kinds = jnp.zeros_like(ids) if types is None else types
            x = x + nn.Embed(self.types, self.width, name="type_embed", **how)(kinds)
        return dropout(LayerNorm(self.norm_eps, dtype, name="norm_embed")(x), self.dropout, rng)


_NORMAL = nn.initializers.normal(0.02)

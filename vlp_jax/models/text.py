"""Text Transformer of CLIP (arXiv:2103.00020) and SigLIP (arXiv:2303.15343).

The file exists as the one text encoder of the dual-encoder methods.
"""

from typing import Annotated, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Range, Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn.embed import Embed
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.pooling import pool_text
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.transformer import StackConfig, run_blocks


class TextTransformer(nn.Module):
    """Token ids [B, T] to an embedding [B, E].

    Attributes:
      vocab_size, context_length: V and the longest T.
      new_rows: how many of the V, the last, lie beside the table (nn/embed.py); no pooling by the
        largest id looks at them.
      width, num_layers, num_heads: D, L and H.
      embed_dim: E of the final projection; 0 leaves the pooled D-vector.
      causal: no token sees a later one (CLIP); False sees the whole text with its padding (SigLIP).
      pool: see nn/pooling.py.
      head_bias: bias of the projection (SigLIP).
      The others: see nn/transformer.py StackConfig.
    """

    masked: ClassVar[bool] = False  # reads its padding, or never sees it

    vocab_size: Size = 49408
    new_rows: Annotated[int, Range(0)] = 0
    context_length: Size = 77
    width: Size = 512
    num_layers: Size = 12
    num_heads: Size = 8
    embed_dim: int = 0
    mlp_ratio: float = 4.0
    causal: bool = True
    pool: str = "argmax"
    head_bias: bool = False
    activation: str = "gelu"
    norm_eps: float = 1e-5
    weight_init: str = "clip"
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    @property
    def cuttable(self) -> bool:
        """Whether nothing after a text's end changes its embedding: CLIP, not SigLIP."""
        return self.causal and self.pool == "argmax"

    def stack_config(self) -> StackConfig:
        """The transformer body's sizes.

        Raises:
          UserError: num_heads does not divide width.
        """
        return StackConfig.of(self, "text")

    @nn.compact
    def __call__(
        self, ids: Array, rng: Array | None = None, before: bool = False
    ) -> tuple[Array, dict[str, Array]]:
        """Runs the tower.

        Args:
          ids: int32[B, T], T <= context_length, 0 <= id < vocab_size (checked where texts are
            tokenised).
          rng: key[B] for dropout; None is deterministic.
          before: tells `before` too, [B, T, D] as the last block sees it, what SDXL looks at.

        Returns:
          (embedding float32[B, E], {"tokens": [B, T, D] after the last norm, "pooled": float32[B,
          D]}).

        Raises:
          UserError: T exceeds context_length.
        """
        length = ids.shape[1]
        if length > self.context_length:
            raise UserError(
                f"texts of {length} tokens but the text tower takes "
                f"context_length={self.context_length}"
            )
        dtype = DTYPES[self.dtype]
        known = self.vocab_size - self.new_rows
        x = Embed(
            known,
            self.width,
            dtype=dtype,
            embedding_init=nn.initializers.normal(0.02),
            new_rows=self.new_rows,
            name="token_embed",
        )(ids)  # [B, T, D]
        pos = self.param(
            "pos_embed", nn.initializers.normal(0.01), (self.context_length, self.width)
        )
        x = x + pos[:length].astype(dtype)
        x = run_blocks(self.stack_config(), x, None, rngs.fold(rng, "blocks"), before=before)
        x, seen = x if before else (x, None)
        tokens = LayerNorm(self.norm_eps, dtype, name="norm_post")(x)
        if self.new_rows and self.pool == "argmax":
            ids = jnp.where(ids < known, ids, 0)
        pooled = pool_text(tokens, ids, self.pool).astype(jnp.float32)
        out = {"tokens": tokens, "pooled": pooled} | ({"before": seen} if before else {})
        if not self.embed_dim:
            return pooled, out
        scale = nn.initializers.normal(self.width**-0.5)
        return nn.Dense(self.embed_dim, use_bias=self.head_bias, kernel_init=scale, name="head")(
            pooled
        ), out

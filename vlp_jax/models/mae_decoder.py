"""The decoder of a masked autoencoder: a narrow transformer from visible tokens to all pixels (MAE,
arXiv:2111.06377 section 3).

The file exists because it is thrown away after pre-training: an encoder must not know it.
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array
from vlp_jax.nn.init import linear_init, token_init
from vlp_jax.nn.layer_norm import LayerNorm
from vlp_jax.nn.masks import is_hidden, put_tokens
from vlp_jax.nn.positions import sincos_table
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.transformer import StackConfig, run_blocks


class MAEDecoder(nn.Module):
    """Encoder tokens [B, C + N', D] to pixels [B, N, P * P * 3].

    Attributes:
      grid, patch_size: patches along one side and pixels along one side of a patch.
      prefix: C, class tokens in front (0 or 1); their position is zero.
      width, num_layers, num_heads, mlp_ratio: of the decoder (512, 8, 16, 4 as published).
      The others: see nn/transformer.py StackConfig.
    """

    grid: int
    patch_size: Size
    prefix: int = 1
    width: Size = 512
    num_layers: Size = 8
    num_heads: Size = 16
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    norm_eps: float = 1e-6
    weight_init: str = "mae"
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    def stack_config(self) -> StackConfig:
        """The transformer body's sizes.

        Raises:
          UserError: num_heads does not divide width.
        """
        return StackConfig.of(self, "decoder")

    @nn.compact
    def __call__(self, tokens: Array, places: Array | None, rng: Array | None = None) -> Array:
        """Predicts every patch, hidden or not.

        Args:
          tokens: float[B, C + N', D], the encoder's, after its last norm.
          places: int32[B, N'], rising, where the N' patches lie among the N; None: they are all
            there (mask tokens went through the encoder).
          rng: not used, nothing is random here.

        Returns:
          float32[B, N, P * P * 3].
        """
        del rng
        dtype, count = DTYPES[self.dtype], self.grid**2
        x = self._dense(self.width, "embed", tokens.shape[-1])(tokens)
        cls, x = x[:, : self.prefix], x[:, self.prefix :]
        if places is not None:
            start = token_init(self.weight_init, self.width)
            token = self.param("mask_token", start, (self.width,)).astype(dtype)
            hidden = is_hidden(places, count)[:, :, None]
            x = jnp.where(hidden, token, put_tokens(x, places, count))  # [B, N, D']
        x = x + jnp.asarray(sincos_table(self.grid, self.width), dtype)
        x = run_blocks(self.stack_config(), jnp.concatenate([cls, x], axis=1))
        x = LayerNorm(self.norm_eps, dtype, name="norm_post")(x[:, self.prefix :])
        pixels = 3 * self.patch_size**2
        return self._dense(pixels, "pred", self.width)(x).astype(jnp.float32)

    def _dense(self, features: int, name: str, fan_in: int) -> nn.Dense:
        start = linear_init(self.weight_init, fan_in, features)
        return nn.Dense(features, dtype=DTYPES[self.dtype], kernel_init=start, name=name)

    def flops(self, tokens: int, width: int) -> float:
        """FLOPs of embedding `tokens` tokens of the encoder's width and predicting the pixels,
        without the blocks.
        """
        pixels = 3 * self.patch_size**2
        return 2 * self.width * (tokens * width + self.grid**2 * pixels)

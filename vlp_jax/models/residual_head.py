"""A two-layer projection head with a residual around its second layer, as tutorials put it on
frozen encoders (keras.io "Natural language image search with a dual encoder").

The file exists because such a head is all that learns between two encoders that came trained.
"""

import flax.linen as nn
import jax

from vlp_jax.core import rng as rngs
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.frozen import keys_beside
from vlp_jax.nn.layer_norm import LayerNorm


class ResidualHead(nn.Module):
    """Features [B, D] to float32[B, E]: LN(p + dropout(W2 gelu(p))), p = W1 x.

    The residual goes from the projected input p, not from x. Parameters with biases:
    D E + E^2 + 4 E; without: D E + E^2 + 2 E.

    Attributes:
      embed_dim: E.
      dropout: rate behind the second layer.
      bias: whether both layers have one.
    """

    embed_dim: Size = 256
    dropout: Rate = 0.1
    bias: bool = True

    @nn.compact
    def __call__(self, features: Array, rng: Array | None = None) -> Array:
        """rng: key[B] for dropout; None is deterministic."""
        projected = nn.Dense(self.embed_dim, use_bias=self.bias, name="project")(features)
        hidden = jax.nn.gelu(projected, approximate=False)
        hidden = nn.Dense(self.embed_dim, use_bias=self.bias, name="hidden")(hidden)
        hidden = dropout(hidden, self.dropout, keys_beside("hidden", rngs.fold(rng, "hidden")))
        return LayerNorm(1e-5, name="norm")(hidden + projected)  # eps as PyTorch's default

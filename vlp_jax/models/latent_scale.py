"""The factor that gives an autoencoder's latents a deviation of 1 (arXiv:2112.10752, section 4.3.2
and appendix G: `scale_by_std`).

Latents are multiplied by it before they are noised and divided by it before they are decoded. It is
a batch statistic, so that a checkpoint of the autoencoder carries it and `init_from` hands it on.
The file exists so that no recipe has to know the number of an autoencoder.
"""

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core.schema import Rate
from vlp_jax.core.types import Array


class LatentScale(nn.Module):
    """scale float32[], 1 at the start; a released checkpoint's is the number of its config.

    Attributes:
      momentum: of the running variance, in training.
    """

    momentum: Rate = 0.99

    @nn.compact
    def __call__(self, latent: Array, rng: Array | None = None) -> Array:
        """The factor, float32[]; where statistics may move, towards 1 / deviation of these latents,
        float[B, h, w, c]."""
        del rng
        scale = self.variable("batch_stats", "scale", lambda: jnp.float32(1))
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            found = jnp.var(latent.astype(jnp.float32))
            mean = self.momentum / jnp.square(scale.value) + (1 - self.momentum) * found
            scale.value = 1 / jnp.sqrt(mean)
        return scale.value

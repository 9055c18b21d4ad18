"""What keeps the latents of an autoencoder in bounds: a Gaussian prior or a codebook.

Sources: arXiv:1312.6114 appendix B, arXiv:1711.00937 equation 3, CompVis/taming-transformers
quantize.py. The file exists to hold both sums, and the two conventions of the second.
"""

import jax
import jax.numpy as jnp

from vlp_jax.core.types import Array


def gaussian_kl(mean: Array, logvar: Array) -> Array:
    """KL divergence of N(mean, exp(logvar)) from N(0, 1), nats of a whole picture: the sum over its
    places and channels. float[B, h, w, c] each -> float32[B]
    """
    mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
    each = jnp.square(mean) + jnp.exp(logvar) - 1 - logvar
    return 0.5 * each.sum((1, 2, 3))


def codebook_loss(
    latent: Array, codes: Array, commitment: float = 1.0, codebook: float = 0.25
) -> Array:
    """Latents drawn to their codes and codes to their latents, means over places and channels.

    The defaults are those of latent diffusion's models (taming's `legacy` placement of beta); the
    paper has commitment=0.25, codebook=1.

    Args:
      latent: float[B, h, w, D], what was quantised.
      codes: float[B, h, w, D], the codes' own values (nn/codebook.py Quantised.codes).

    Returns:
      float32[B].
    """
    stop, axes = jax.lax.stop_gradient, (1, 2, 3)
    to_codes = jnp.square(latent - stop(codes)).mean(axes)
    to_latents = jnp.square(codes - stop(latent)).mean(axes)
    return commitment * to_codes + codebook * to_latents

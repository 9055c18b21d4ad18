"""From a trunk's map of features back to pictures, and the judge of pictures.

Norms are over channels (LayerNorm) where the published networks have BatchNorm: a picture's output
then depends on no other, so micro-batches are exact. The file exists as the one convolutional
decoder of the pretext tasks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.types import Array
from vlp_jax.nn.layer_norm import LayerNorm


def check_doublings(widths: tuple[int, ...], start: int, end: int) -> None:
    """Refuses a decoder that does not lead from a map of side `start` to one of side `end`.

    Raises:
      UserError: names method.widths.
    """
    found = start * 2 ** len(widths)
    if found != end:
        raise UserError(
            f"method.widths={widths}: {len(widths)} doublings of the trunk's {start} x {start} map "
            f"give {found}, not {end}"
        )


class ConvDecoder(nn.Module):
    """[B, H, W, D] -> float32[B, 2^n H, 2^n W, out]: n times a transposed 4 x 4 convolution of
    stride 2, norm and ReLU, then a 3 x 3 convolution.

    Attributes:
      out: channels of the result.
      widths: channels after each of the n doublings.
    """

    out: int
    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        del rng  # nothing is random here
        for layer, width in enumerate(self.widths, start=1):
            up = nn.ConvTranspose(width, (4, 4), (2, 2), dtype=self.dtype, name=f"up{layer}")
            x = jax.nn.relu(LayerNorm(1e-5, self.dtype, name=f"norm{layer}")(up(x)))
        return nn.Conv(self.out, (3, 3), dtype=jnp.float32, name="out")(x)


class ChannelDense(nn.Module):
    """The channel-wise fully connected layer of context encoders (arXiv:1604.07379, section 3.2):
    every place of a channel sees all others, channels stay apart; H^2 W^2 D weights.

    [B, H, W, D] -> [B, H, W, D]
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        del rng  # nothing is random here
        batch, height, width, channels = x.shape
        places = height * width
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=2)
        kernel = self.param("kernel", init, (channels, places, places)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).astype(self.dtype)
        flat = x.reshape(batch, places, channels).astype(self.dtype)
        return (jnp.einsum("bnd,dnm->bmd", flat, kernel) + bias).reshape(x.shape)


class Critic(nn.Module):
    """Judges pictures: [B, H, W, 3] -> float32[B] logits of being real.

    Attributes:
      widths: channels of 4 x 4 convolutions of stride 2; 64, 128, 256, 512 as published.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None) -> Array:
        del rng  # nothing is random here
        for layer, width in enumerate(self.widths, start=1):
            x = nn.Conv(width, (4, 4), (2, 2), dtype=self.dtype, name=f"down{layer}")(x)
            if layer > 1:
                x = LayerNorm(1e-5, self.dtype, name=f"norm{layer}")(x)
            x = jax.nn.leaky_relu(x, 0.2)
        flat = x.reshape(len(x), -1)
        return nn.Dense(1, dtype=jnp.float32, name="out")(flat)[:, 0]

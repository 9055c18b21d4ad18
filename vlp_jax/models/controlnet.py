"""ControlNet (arXiv:2302.05543; reference: lllyasviel/ControlNet cldm.py): a copy of a U-Net's
first half that sees a control picture (edges, depth, a pose) and adds to the skips and the middle
of the U-Net, which stays as it is.

Parameters of the copy have the U-Net's own paths, so that `init_from` takes them from there. What
is added passes convolutions that start as zeros: at the start the U-Net's output is its own bit for
bit. The file exists for that copy, and for what is done with what several of them add.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array
from vlp_jax.models.unet import Condition, Residuals, UNet
from vlp_jax.models.unet import reads as unet_reads
from vlp_jax.nn.precision import DTYPES
from vlp_jax.nn.resblock import conv


class ControlNet(UNet):
    """Noisy latents and a control picture to what a U-Net of the same sizes adds.

    Attributes:
      hint_widths: channels of the network of the control picture, halved between each two.
      hint_channels: of the control picture.
      The others: those of the U-Net; out_channels is not used.
    """

    hint_widths: tuple[int, ...] = (16, 32, 96, 256)
    hint_channels: Size = 3

    @property
    def factor(self) -> int:
        """Pixels of the control picture along a side of one place of the latents."""
        return 2 ** (len(self.hint_widths) - 1)

    @nn.compact
    def __call__(
        self,
        latent: Array,
        time: Array,
        condition: Condition | None = None,
        hint: Array | None = None,
        rng: Array | None = None,
    ) -> Residuals:
        """Runs the network.

        Args:
          latent, time, condition, rng: as of models/unet.py UNet.
          hint: float[B, 8 h, 8 w, hint_channels] in [0, 1], the control picture.

        Returns:
          Residuals in the compute dtype.

        Raises:
          UserError: as UNet; no control picture, or one of another size.
        """
        given = condition or Condition()
        self.check(latent, given)
        self._check_hint(latent, hint)
        told = self.embed(time, given)
        sizes = self.hint_widths, self.widths[0], DTYPES[self.dtype]
        x = self.first(latent) + _Hint(*sizes, name="hint")(hint)
        x, skips = self.down(x, told, given, rng)
        x = self.middle(x, told, given, rng)
        zeros = [self._zero(skip, f"zero{n}") for n, skip in enumerate(skips)]
        return Residuals(tuple(zeros), self._zero(x, "zero_mid"))

    def _zero(self, x: Array, name: str) -> Array:
        return conv(x.shape[-1], 1, name, zero=True, dtype=DTYPES[self.dtype])(x)

    def _check_hint(self, latent: Array, hint: Array | None) -> None:
        if hint is None:
            raise UserError("controlnet: needs a control picture")
        height, width = (side * self.factor for side in latent.shape[1:3])
        wanted = (height, width, self.hint_channels)
        if hint.shape[1:] != wanted:
            found, wanted = ("x".join(map(str, shape)) for shape in (hint.shape[1:], wanted))
            raise UserError(f"controlnet: a control picture of {found}, it must be {wanted}")


class _Hint(nn.Module):
    """[B, 8 H, 8 W, C] -> [B, H, W, features], which starts as zeros."""

    widths: tuple[int, ...]
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        how = dict(dtype=self.dtype)
        x = jax.nn.silu(conv(self.widths[0], 3, "conv_in", **how)(x.astype(self.dtype)))
        for n, (width, wider) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            x = jax.nn.silu(conv(width, 3, f"conv{2 * n}", **how)(x))
            half = dict(strides=(2, 2), padding=((1, 1), (1, 1)), **how)
            x = jax.nn.silu(conv(wider, 3, f"conv{2 * n + 1}", **half)(x))
        return conv(self.features, 3, "out", zero=True, **how)(x)


def scaled(found: Residuals, scale: Array | float, guess: bool = False) -> Residuals:
    """Residuals times `scale`, float32[] or a number.

    guess: also times 0.1 at the finest skip to 1 at the middle, evenly by factors (guess mode of
    the reference: it lets a prompt of nothing be guessed).
    """
    count = len(found.skips)
    steps = np.logspace(-1, 0, count + 1, dtype=np.float32) if guess else np.ones(count + 1)
    times = lambda x, step: (x * (scale * step)).astype(x.dtype)  # noqa: E731
    skips = tuple(map(times, found.skips, steps[:-1]))
    return Residuals(skips, times(found.middle, steps[-1]))


def joined(several: Sequence[Residuals]) -> Residuals:
    """The sum of what several ControlNets add."""
    return jax.tree.map(lambda *each: sum(each), *several)


def reads(net: ControlNet, context_width: int = 0) -> tuple:
    """Inputs of a call that makes every parameter, for `Part`: latent, time, condition, hint."""
    latent, *rest = unet_reads(net, context_width)
    sides = (side * net.factor for side in latent.shape[1:3])
    hint = jax.ShapeDtypeStruct((1, *sides, net.hint_channels), jnp.float32)
    return (latent, *rest, hint)

"""Denoising autoencoder: what was the picture before it was damaged? (Vincent et al. 2008; stacked
form: JMLR 11, 2010)

Any trunk; one linear layer from each of its tokens to the pixels that the token stands for. The
file exists to hold the corruptions and the losses.
"""

import dataclasses
from functools import cached_property

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Part
from vlp_jax.methods.kits.pretext import Answers, Pretext, grid_of, grid_shape
from vlp_jax.models.head import Head

CORRUPTIONS = ("masking", "gaussian", "salt_and_pepper")
LOSSES = ("cross_entropy", "squared_error")


def corrupt(pixels: Array, key: Array, kind: str, amount: float) -> tuple[Array, Array]:
    """Damages one picture float32[S, S, 3] in [0, 1].

    Args:
      kind: `masking`: a share `amount` of the pixels becomes 0; `salt_and_pepper`: 0 or 1, each
        half the time; `gaussian`: N(0, amount^2) is added to every value.

    Returns:
      (the damaged picture, bool[S, S, 1] which pixels were touched).
    """
    where, value = jax.random.split(key)
    shape = (*pixels.shape[:2], 1)
    if kind == "gaussian":
        noise = amount * jax.random.normal(value, pixels.shape)
        return pixels + noise, jnp.ones(shape, bool)
    hit = jax.random.bernoulli(where, amount, shape)
    salt = jax.random.bernoulli(value, 0.5, shape) & (kind == "salt_and_pepper")
    return jnp.where(hit, salt.astype(pixels.dtype), pixels), hit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(Pretext):
    """The trunk sees the damaged picture, the loss the whole one.

    Attributes:
      corruption: a name of `corrupt`; amount: its share or deviation.
      loss_name: `cross_entropy` of values in [0, 1], or `squared_error`.
      alpha, beta: weights of touched and of untouched pixels (JMLR 11, section 3.3).
    """

    corruption: str = "masking"
    amount: float = 0.25
    loss_name: str = "cross_entropy"
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        for key, valid in (("corruption", CORRUPTIONS), ("loss_name", LOSSES)):
            value = getattr(self, key)
            if value not in valid:
                raise UserError(f"method.{key}: unknown {value!r}{nearest(value, valid)}")
        if self.amount < 0 or (self.corruption != "gaussian" and self.amount >= 1):
            raise UserError(f"method.amount={self.amount}: a share in [0, 1), or a deviation >= 0")

    @property
    def decoder(self) -> nn.Module:
        """From a token to its pixels, by the picture's and the map's sides."""
        return Head(3 * (self.image_tower.image_size // self.side) ** 2)

    @cached_property
    def side(self) -> int:
        """Side of the trunk's map."""
        return grid_shape(self.image_shapes).shape[1]

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """decoder: on each place of the trunk's map.

        Raises:
          UserError: the map does not divide the picture.
        """
        if self.image_tower.image_size % self.side:
            raise UserError(
                f"image_size={self.image_tower.image_size} is no multiple of the trunk's map "
                f"({self.side} x {self.side})"
            )
        return {"decoder": Part(self.decoder, (grid_shape(out),))}

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """logits, clean and damaged pictures float32[B, S, S, 3], touched bool[B, S, S, 1]."""
        clean = self.augmented(x.batch["image"], x.keys) / 255
        one = lambda image, key: corrupt(image, key, self.corruption, self.amount)  # noqa: E731
        damaged, touched = jax.vmap(one)(clean, keys)
        _, out, moved = self.run_image(v, x, self.normalised(damaged * 255))
        pixels = self.apply("decoder", v, x, grid_of(out))
        p = self.image_tower.image_size // self.side
        logits = rearrange(pixels, "b h w (p q c) -> b (h p) (w q) c", p=p, q=p)
        return {"logits": logits, "clean": clean, "damaged": damaged, "touched": touched}, moved

    def picture(self, rows: Answers) -> Array:
        """The answer in [0, 1]: float32[B, S, S, 3]."""
        logits = rows["logits"]
        is_bits = self.loss_name == "cross_entropy"
        return jax.nn.sigmoid(logits) if is_bits else jnp.clip(logits, 0, 1)

    def objective(self, v: Vars, rows: Answers, x: Inputs) -> tuple[Array, Aux]:
        """Weighted mean over all values; metrics psnr and that of the damaged picture."""
        if self.loss_name == "cross_entropy":
            error = jax.nn.softplus(rows["logits"]) - rows["clean"] * rows["logits"]
        else:
            error = jnp.square(rows["logits"] - rows["clean"])
        loss = x.share(jnp.where(rows["touched"], self.alpha, self.beta) * error)
        return loss, Aux(self.scored(x, rows, "psnr"))

    def score(self, rows: Answers) -> Array:
        """PSNR in dB of the answer, beside that of the damaged picture."""

        def psnr(guess: Array) -> Array:
            error = jnp.square(guess - rows["clean"]).mean((1, 2, 3))
            return -10 * jnp.log10(jnp.maximum(error, 1e-6))

        return jnp.stack([psnr(self.picture(rows)), psnr(jnp.clip(rows["damaged"], 0, 1))], axis=1)

    def show(self, images: Array, rows: Answers) -> Array:
        """3 panels: input, answer, target."""
        return jnp.stack([rows["damaged"], self.picture(rows), images], axis=1)

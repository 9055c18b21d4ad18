"""The U-Net of latent diffusion and Stable Diffusion 1.x, 2.x and XL (arXiv:2112.10752,
arXiv:2307.01952; reference: CompVis/latent-diffusion openaimodel.py): noisy maps, their time and
what they are conditioned on, to what a diffusion target asks for.

The file exists as the one denoiser of pictures; sizes are in archs/unet.py, and
models/controlnet.py runs a copy of the first half of it.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn.cache import States
from vlp_jax.nn.norms import GroupNorm
from vlp_jax.nn.precision import DTYPES, pick, remat
from vlp_jax.nn.resblock import SYMMETRIC, Downsample, ResBlock, Upsample, conv
from vlp_jax.nn.spatial import MapAttention, SpatialTransformer
from vlp_jax.nn.timesteps import VectorEmbed, sinusoids
from vlp_jax.parallel.constrain import constrain_batch

RESAMPLE = ("conv", "res")


class Residuals(NamedTuple):
    """What a ControlNet adds: to what each of the U-Net's skips holds, and behind its middle; maps
    float[B, h, w, C], from the finest on."""

    skips: tuple[Array, ...]
    middle: Array


class Condition(NamedTuple):
    """What a U-Net is conditioned on; a network reads what its sizes name.

    context: states float[B, S, D'] that transformers look at. mask: bool[B, S] of these, or None:
    all are seen (Stable Diffusion looks at padding too). pooled: float[B, P] of a text. time_ids:
    float32[B, n], of SDXL (height, width, top, left, target height, target width) in pixels.
    labels: int32[B]. control: of ControlNets, or None.
    """

    context: Array | None = None
    mask: Array | None = None
    pooled: Array | None = None
    time_ids: Array | None = None
    labels: Array | None = None
    control: Residuals | None = None


class UNet(nn.Module):
    """Noisy latents float[B, h, w, c] to float32[B, h, w, out].

    Attributes:
      in_channels, out_channels: with what is joined to the latents (mask, masked or low-resolution
        picture); of the output.
      widths: channels of each level, from the finest on.
      depths: transformer blocks behind each residual block of a level; 0: none. Without a context
        1 is a plain attention.
      middle_depth: the same of the middle.
      heads: of each level's attentions; the middle has the last.
      cross: transformers that look at a context; False: plain attentions.
      only_cross: levels whose transformers have no self-attention but a second look at the
        context; () is none.
      linear: see nn/spatial.py SpatialTransformer.
      res_blocks: of a level on the way down; on the way up there is one more.
      film: see nn/resblock.py ResBlock.
      resample: `conv`, or `res`: residual blocks change the resolution (BigGAN's way).
      classes: of a table of labels that are added to the time; 0: none.
      pooled_width, time_ids, id_width: P, n and the columns of each of the n numbers that XL adds
        to the time; 0: none.
      groups, norm_eps: of the norms of residual blocks, plain attentions and the output.
      dropout: rate in the residual blocks.
      dtype, remat, unroll, attention: see nn/transformer.py StackConfig; remat is by block, unroll
        concerns transformers deeper than 1.
    """

    in_channels: Size = 4
    out_channels: Size = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    depths: tuple[int, ...] = (1, 1, 1, 0)
    middle_depth: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    cross: bool = True
    only_cross: tuple[bool, ...] = ()
    linear: bool = False
    res_blocks: Size = 2
    film: bool = False
    resample: str = "conv"
    classes: int = 0
    pooled_width: int = 0
    time_ids: int = 0
    id_width: Size = 256
    groups: Size = 32
    norm_eps: float = 1e-5
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False
    attention: str = "auto"

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return len(self.widths)

    @nn.compact
    def __call__(
        self,
        latent: Array,
        time: Array,
        condition: Condition | None = None,
        rng: Array | None = None,
    ) -> Array:
        """Runs the network.

        Args:
          latent: float[B, h, w, in_channels], h and w multiples of 2^(levels - 1).
          time: float32[B], steps of a schedule (0 to 999), whole or not.
          condition: what its sizes name.
          rng: key[B] for dropout; None is deterministic.

        Returns:
          float32[B, h, w, out_channels], the raw output.

        Raises:
          UserError: sizes that do not fit one another, latents off the grid or of other channels, a
            condition that is missing or that the network has no place for.
        """
        given = condition or Condition()
        self.check(latent, given)
        told = self.embed(time, given)
        x, skips = self.down(self.first(latent), told, given, rng)
        x = self.middle(x, told, given, rng)
        if given.control is not None:
            added = zip(skips, given.control.skips, strict=True)
            skips = [skip + more.astype(skip.dtype) for skip, more in added]
            x = x + given.control.middle.astype(x.dtype)
        x = self.up(x, skips, told, given, rng)
        x = GroupNorm(self.groups, self.norm_eps, silu=True, name="norm_out")(x)
        return conv(self.out_channels, 3, "conv_out", zero=True)(x)

    def check(self, latent: Array, given: Condition) -> None:
        """Raises UserError as `__call__`."""
        pick(DTYPES, self.dtype, "unet.dtype")
        for key in ("depths", "heads", *(("only_cross",) if self.only_cross else ())):
            if len(getattr(self, key)) != self.levels:
                raise UserError(f"unet.{key}={getattr(self, key)}: must say it of {self.levels}"
                                f" levels, widths={self.widths}")  # fmt: skip
        for width, heads in zip(self.widths, self.heads, strict=True):
            if heads < 1 or width % heads:
                raise UserError(f"unet.heads={self.heads}: {heads} does not divide {width}")
        if self.resample not in RESAMPLE:
            raise UserError(f"unet.resample: unknown {self.resample!r}; {' or '.join(RESAMPLE)}")
        height, width, channels = latent.shape[1:]
        grid = 2 ** (self.levels - 1)
        if height % grid or width % grid:
            raise UserError(f"latents of {height}x{width}: sides must be multiples of {grid}")
        if channels != self.in_channels:
            raise UserError(f"latents of {channels} channels, but in_channels={self.in_channels}")
        for key, wanted in (
            ("pooled", self.pooled_width),
            ("time_ids", self.time_ids),
            ("labels", self.classes),
        ):
            found = getattr(given, key)
            if (found is None) == bool(wanted):
                what = "needs" if wanted else "has no place for"
                raise UserError(f"unet: the network {what} {key}")
            if found is not None and key != "labels" and found.shape[-1] != wanted:
                raise UserError(f"unet: {key} of {found.shape[-1]} columns, not {wanted}")
        skips = self.levels * (self.res_blocks + 1)
        if given.control is not None and len(given.control.skips) != skips:
            count = len(given.control.skips)
            raise UserError(f"unet: control of {count} skips, the network has {skips}")

    def embed(self, time: Array, given: Condition) -> Array:
        """What residual blocks are told: [B, 4 widths[0]] of time, label, pooled text and sizes."""
        dtype, width = DTYPES[self.dtype], 4 * self.widths[0]
        told = VectorEmbed(width, dtype, name="time_embed")(sinusoids(time, self.widths[0]))
        if self.classes:
            told = told + nn.Embed(self.classes, width, dtype=dtype, name="labels")(given.labels)
        if self.pooled_width or self.time_ids:
            more = []
            if self.pooled_width:
                more.append(given.pooled.astype(jnp.float32))
            if self.time_ids:
                ids = sinusoids(given.time_ids, self.id_width)  # [B, n, 256]
                more.append(ids.reshape(len(ids), -1))
            joined = jnp.concatenate(more, axis=-1)
            told = told + VectorEmbed(width, dtype, name="added_embed")(joined)
        return told

    def first(self, latent: Array) -> Array:
        """[B, h, w, in_channels] -> [B, h, w, widths[0]]."""
        dtype = DTYPES[self.dtype]
        return conv(self.widths[0], 3, "conv_in", dtype=dtype)(latent.astype(dtype))

    def down(
        self, x: Array, told: Array, given: Condition, rng: Array | None
    ) -> tuple[Array, list[Array]]:
        """(The coarsest map, every map on the way from x on)."""
        skips = [x]
        for level, width in enumerate(self.widths):
            x = constrain_batch(x)
            for n in range(self.res_blocks):
                x = self._block(x, width, f"down{level}_res{n}", told, rng)
                x = self._attend(x, level, f"down{level}_attn{n}", self.depths[level], given)
                skips.append(x)
            if level < self.levels - 1:
                x = self._move(x, "down", f"down{level}_sample", told, rng)
                skips.append(x)
        return x, skips

    def middle(self, x: Array, told: Array, given: Condition, rng: Array | None) -> Array:
        """Block, attention, block."""
        width = x.shape[-1]
        x = self._block(constrain_batch(x), width, "mid_res0", told, rng)
        x = self._attend(x, None, "mid_attn0", self.middle_depth, given)
        return self._block(x, width, "mid_res1", told, rng)

    def up(
        self, x: Array, skips: list[Array], told: Array, given: Condition, rng: Array | None
    ) -> Array:
        """Back to the finest level, taking the skips from the last on."""
        skips = list(skips)
        for order, level in enumerate(reversed(range(self.levels))):
            x = constrain_batch(x)
            for n in range(self.res_blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._block(x, self.widths[level], f"up{order}_res{n}", told, rng)
                x = self._attend(x, level, f"up{order}_attn{n}", self.depths[level], given)
            if level:
                x = self._move(x, "up", f"up{order}_sample", told, rng)
        return x

    def _block(
        self, x: Array, width: int, name: str, told: Array, rng: Array | None, move: str = ""
    ) -> Array:
        kind = remat(ResBlock, self.remat, scanned=False)
        how = dict(groups=self.groups, eps=self.norm_eps, film=self.film, move=move)
        how |= dict(dropout=self.dropout, dtype=DTYPES[self.dtype])
        return kind(width, **how, name=name)(x, told, rngs.fold(rng, name))

    def _attend(
        self, x: Array, level: int | None, name: str, depth: int, given: Condition
    ) -> Array:
        """Attention of a level, None: of the middle."""
        if not depth:
            return x
        heads = self.heads[-1 if level is None else level]
        how = dict(groups=self.groups, attention=self.attention, name=name)
        if not self.cross:
            kind = remat(MapAttention, self.remat, scanned=False)
            return kind(heads, eps=self.norm_eps, zero=True, dtype=DTYPES[self.dtype], **how)(x)
        only = bool(self.only_cross) and level is not None and self.only_cross[level]
        how |= dict(dtype=self.dtype, remat=self.remat, unroll=self.unroll, only_cross=only)
        context = None if given.context is None else States(given.context, given.mask)
        return SpatialTransformer(depth, heads, self.linear, **how)(x, context)

    def _move(self, x: Array, move: str, name: str, told: Array, rng: Array | None) -> Array:
        dtype = DTYPES[self.dtype]
        if self.resample == "res":
            return self._block(x, x.shape[-1], name, told, rng, move)
        if move == "down":
            return Downsample(SYMMETRIC, dtype, name=name)(x)
        return Upsample(dtype, name=name)(x)


def reads(net: UNet, context_width: int = 0) -> tuple:
    """Inputs of a call that makes every parameter, for `Part`: latent, time, condition."""
    shape, side = jax.ShapeDtypeStruct, 2 ** (net.levels - 1)
    given = Condition(
        context=shape((1, 1, context_width), jnp.float32) if net.cross else None,
        pooled=shape((1, net.pooled_width), jnp.float32) if net.pooled_width else None,
        time_ids=shape((1, net.time_ids), jnp.float32) if net.time_ids else None,
        labels=shape((1,), jnp.int32) if net.classes else None,
    )
    return shape((1, side, side, net.in_channels), jnp.float32), shape((1,), jnp.float32), given

"""The autoencoder of latent diffusion (arXiv:2112.10752, appendix G.1; reference:
CompVis/latent-diffusion autoencoder.py, diffusionmodules/model.py): pictures to maps f times
smaller and back, regularised by a KL term or by a codebook.

The file exists as the one first stage of every latent diffusion model; sizes are in archs/.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn.codebook import Codebook, Quantised
from vlp_jax.nn.norms import GroupNorm
from vlp_jax.nn.precision import DTYPES, pick, remat
from vlp_jax.nn.resblock import BEHIND, Downsample, ResBlock, Upsample, conv
from vlp_jax.nn.spatial import MapAttention
from vlp_jax.parallel.constrain import constrain_batch

EPS = 1e-6
LOGVAR = (-30.0, 20.0)  # what a log-variance is cut to


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """The fields of Autoencoder that both halves see; attend: of every level."""

    widths: tuple[int, ...]
    attend: tuple[bool, ...]
    middle_attention: bool
    res_blocks: int
    groups: int
    dropout: float
    dtype: jnp.dtype
    remat: str
    attention: str


class Autoencoder(nn.Module):
    """Pictures float[B, H, W, C] in [-1, 1] to maps float32[B, H / f, W / f, c] and back.

    Latents are as the network has them, without the factor that a diffusion model scales them by.

    Attributes:
      latent_channels: c.
      widths: channels of each level; f = 2^(levels - 1).
      attend: which levels have attention behind each residual block; () is none.
      middle_attention: attention between the two blocks of the middle.
      res_blocks: of a level of the encoder; the decoder has one more.
      codes: K, numbers of a codebook; 0: a Gaussian posterior.
      code_width: D of the codes, and of the posterior; 0: c.
      channels: C of the pictures.
      quant_convs: 1 x 1 convolutions behind the encoder and before the decoder.
      groups: of the norms, whose eps is 1e-6.
      dropout: rate in the residual blocks.
      dtype, remat, attention: see nn/transformer.py StackConfig; remat is by block.
    """

    latent_channels: Size = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    attend: tuple[bool, ...] = ()
    middle_attention: bool = True
    res_blocks: Size = 2
    codes: int = 0
    code_width: int = 0
    channels: Size = 3
    quant_convs: bool = True
    groups: Size = 32
    dropout: Rate = 0.0
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    @property
    def factor(self) -> int:
        """f, pixels of a picture along a side of one place."""
        return 2 ** (len(self.widths) - 1)

    @property
    def width(self) -> int:
        """Channels of a latent."""
        return self.code_width or self.latent_channels

    def _sizes(self) -> _Sizes:
        levels = len(self.widths)
        if self.attend and len(self.attend) != levels:
            raise UserError(f"autoencoder.attend={self.attend}: must say it of {levels} levels")
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(_Sizes)}
        dtype = pick(DTYPES, self.dtype, "autoencoder.dtype")
        return _Sizes(**found | {"attend": self.attend or (False,) * levels, "dtype": dtype})

    def setup(self) -> None:
        """Raises UserError for a misspelt dtype or an `attend` of other levels."""
        sizes, outs = self._sizes(), 1 if self.codes else 2
        self.encoder = _Encoder(sizes, outs * self.latent_channels)
        self.decoder = _Decoder(sizes, self.channels)
        if self.quant_convs:
            dtype = sizes.dtype
            self.quant_conv = conv(outs * self.width, 1, None, dtype=dtype)
            self.post_quant_conv = conv(self.latent_channels, 1, None, dtype=dtype)
        if self.codes:
            self.codebook = Codebook(self.codes, self.width)

    def __call__(self, pictures: Array, rng: Array | None = None) -> Array:
        """There and back, by the posterior's mean or the nearest codes: float32[B, H, W, C]."""
        latent, _ = self.encode(pictures, rngs.fold(rng, "encode"))
        latent = self.quantise(latent).straight if self.codes else latent
        return self.decode(latent, rngs.fold(rng, "decode"))

    def encode(self, pictures: Array, rng: Array | None = None) -> tuple[Array, Array | None]:
        """The posterior.

        Args:
          pictures: float[B, H, W, C] in [-1, 1]; H and W are multiples of f.
          rng: key[B] for dropout, or None.

        Returns:
          (mean float32[B, H / f, W / f, c], logvar of the same shape, in [-30, 20]); with a
          codebook (what is to be quantised, None).

        Raises:
          UserError: a side that is no multiple of f.
        """
        height, width = pictures.shape[1:3]
        if height % self.factor or width % self.factor:
            raise UserError(f"autoencoder: pictures of {height}x{width} pixels, sides must be"
                            f" multiples of {self.factor}")  # fmt: skip
        x = self.encoder(pictures, rng)
        x = (self.quant_conv(x) if self.quant_convs else x).astype(jnp.float32)
        if self.codes:
            return x, None
        mean, logvar = jnp.split(x, 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR)

    def quantise(self, latent: Array, rng: Array | None = None) -> Quantised:
        """The nearest codes of float[B, h, w, c]. Raises UserError without a codebook."""
        del rng
        if not self.codes:
            raise UserError("autoencoder.codes=0: there is no codebook")
        return self.codebook(latent)

    def decode(self, latent: Array, rng: Array | None = None) -> Array:
        """Pictures float32[B, f h, f w, C] of latents float[B, h, w, c], about in [-1, 1]; those of
        a codebook are quantised before."""
        return self.decode_from(latent, rng)[0]

    def decode_from(self, latent: Array, rng: Array | None = None) -> tuple[Array, Array]:
        """`decode`, and what its last convolution sees, float32[B, f h, f w, widths[0]]."""
        x = latent.astype(DTYPES[self.dtype])
        return self.decoder(self.post_quant_conv(x) if self.quant_convs else x, rng)


class _Half(nn.Module):
    """What encoder and decoder are made of; out: channels of the result."""

    sizes: _Sizes
    out: int

    def block(self, x: Array, features: int, name: str, rng: Array | None) -> Array:
        """A residual block."""
        c = self.sizes
        kind = remat(ResBlock, c.remat, scanned=False)
        how = dict(groups=c.groups, eps=EPS, dropout=c.dropout, zero=False, dtype=c.dtype)
        return kind(features, **how, name=name)(x, None, rngs.fold(rng, name))

    def attend(self, x: Array, name: str) -> Array:
        """Attention of one head."""
        c = self.sizes
        kind = remat(MapAttention, c.remat, scanned=False)
        return kind(1, c.groups, EPS, dtype=c.dtype, attention=c.attention, name=name)(x)

    def level(self, x: Array, level: int, name: str, count: int, rng: Array | None) -> Array:
        """The `count` blocks of a level."""
        x = constrain_batch(x)
        for n in range(count):
            x = self.block(x, self.sizes.widths[level], f"{name}_res{n}", rng)
            if self.sizes.attend[level]:
                x = self.attend(x, f"{name}_attn{n}")
        return x

    def middle(self, x: Array, rng: Array | None) -> Array:
        """Block, attention, block."""
        x = self.block(constrain_batch(x), x.shape[-1], "mid_res0", rng)
        if self.sizes.middle_attention:
            x = self.attend(x, "mid_attn0")
        return self.block(x, x.shape[-1], "mid_res1", rng)

    def last(self, x: Array) -> tuple[Array, Array]:
        """Norm, SiLU and a convolution, in float32; and what this one sees."""
        x = GroupNorm(self.sizes.groups, EPS, silu=True, name="norm_out")(x)
        return conv(self.out, 3, "conv_out")(x), x


class _Encoder(_Half):
    """[B, H, W, C] -> float32[B, H / f, W / f, out]."""

    @nn.compact
    def __call__(self, x: Array, rng: Array | None) -> Array:
        c = self.sizes
        x = conv(c.widths[0], 3, "conv_in", dtype=c.dtype)(x.astype(c.dtype))
        for level in range(len(c.widths)):
            x = self.level(x, level, f"down{level}", c.res_blocks, rng)
            if level < len(c.widths) - 1:
                x = Downsample(BEHIND, c.dtype, name=f"down{level}_sample")(x)
        return self.last(self.middle(x, rng))[0]


class _Decoder(_Half):
    """[B, h, w, c] -> float32[B, f h, f w, out], and what the last convolution sees."""

    @nn.compact
    def __call__(self, x: Array, rng: Array | None) -> tuple[Array, Array]:
        c = self.sizes
        x = self.middle(conv(c.widths[-1], 3, "conv_in", dtype=c.dtype)(x), rng)
        for order, level in enumerate(reversed(range(len(c.widths)))):
            x = self.level(x, level, f"up{order}", c.res_blocks + 1, rng)
            if level:
                x = Upsample(c.dtype, name=f"up{order}_sample")(x)
        return self.last(x)

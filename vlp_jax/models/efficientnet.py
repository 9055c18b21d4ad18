"""EfficientNet (arXiv:1905.11946; reference: tensorflow/tpu models/official/efficientnet): inverted
bottlenecks with squeeze-and-excite, scaled in width and depth together; its lite form without it.

The file exists as the image tower of ALIGN and as a small trunk with released weights; every size
is a row of models/archs/efficientnet.py.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.schema import Rate, Size
from vlp_jax.core.types import Array
from vlp_jax.nn.conv import ConvNorm
from vlp_jax.nn.dropout import drop_path
from vlp_jax.nn.precision import ACTIVATIONS, DTYPES, pick, remat

# kernel, stride, expansion, channels, repeats of each stage of B0 (Table 1)
B0 = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
PADDINGS = ("same", "even")


class BlockSizes(NamedTuple):
    """One block: kernel side, stride, channels inside over channels before, channels before and
    after, whether it adds its input, share of examples that lose the branch, padding."""

    kernel: int
    stride: int
    expand: int
    before: int
    after: int
    residual: bool
    drop: float
    padding: str


def pads(kernel: int, stride: int, padding: str) -> str | list[tuple[int, int]]:
    """Padding of both sides in flax's words.

    `same` is TensorFlow's, which depends on the size that comes in. `even` is what that is for an
    even one, whatever comes, as in transformers: kernel 3 at stride 2 gives (0, 1), 5 gives (1, 2).
    `square` is the same on both sides.
    """
    if padding == "same" or stride == 1:
        return "SAME"
    return [(kernel // 2 - (padding == "even"), kernel // 2)] * 2


class EfficientNet(nn.Module):
    """Pictures [B, H, W, 3] to the mean of the last map, [B, C].

    Attributes:
      image_size: side of the pictures that a method prepares; the network takes any.
      width_multiplier, depth_multiplier: scale channels and repeats of `stages`.
      stages: (kernel, stride, expansion, channels, repeats) of each, before scaling.
      stem: channels of the first convolution, before scaling.
      top_width: C of a 1x1 convolution before the mean, before scaling; 0 has none (ALIGN) and C
        is the last stage's.
      fixed_ends: neither stem nor top scale, nor the repeats of the first and the last stage
        (lite).
      se_ratio: channels of squeeze-and-excite over a block's inputs; 0 has none (lite).
      divisor: channels are multiples of it.
      padding: see `pads`; square_blocks: numbers of blocks that pad alike on both sides instead,
        as transformers' `depthwise_padding`.
      norm_eps, norm_momentum: of BatchNorm; momentum is the share that stays (TensorFlow's words).
      drop_path: stochastic depth of the last block, falling linearly to 0 at the first.
      embed_dim: E of a linear layer on the mean; none where it is 0 or C.
      The others: see nn/transformer.py StackConfig.
    """

    image_size: Size
    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    stages: tuple[tuple[int, ...], ...] = B0
    stem: Size = 32
    top_width: int = 1280
    fixed_ends: bool = False
    se_ratio: float = 0.25
    divisor: Size = 8
    activation: str = "silu"
    padding: str = "same"
    square_blocks: tuple[int, ...] = ()
    norm_eps: float = 1e-3
    norm_momentum: float = 0.99
    drop_path: Rate = 0.2
    embed_dim: int = 0
    dtype: str = "float32"
    remat: str = "none"

    def scaled(self, channels: int, fixed: bool = False) -> int:
        """Channels at this width: a multiple of `divisor`, at most a tenth below the product.

        >>> EfficientNet(300, width_multiplier=1.2).scaled(320)
        384
        """
        wanted = channels * self.width_multiplier
        if fixed:
            return channels
        found = max(self.divisor, int(wanted + self.divisor / 2) // self.divisor * self.divisor)
        return found + self.divisor * (found < 0.9 * wanted)

    @property
    def width(self) -> int:
        """C, the channels of the mean."""
        if self.top_width:
            return self.scaled(self.top_width, self.fixed_ends)
        return self.scaled(self.stages[-1][3])

    @property
    def stem_width(self) -> int:
        """Channels of the first map."""
        return self.scaled(self.stem, self.fixed_ends)

    def blocks(self) -> list[BlockSizes]:
        """Sizes of every block in order.

        Raises:
          UserError: an unknown padding, or a stage that is not five numbers.
        """
        if self.padding not in PADDINGS:
            hint = nearest(self.padding, PADDINGS)
            raise UserError(f"image.padding: unknown {self.padding!r}{hint}")
        if not self.stages or any(len(stage) != 5 for stage in self.stages):
            five = "(kernel, stride, expansion, channels, repeats)"
            raise UserError(f"image.stages={self.stages}: each stage must be {five}")
        total, found = sum(self._repeats()), []
        before = self.stem_width
        for (kernel, stride, expand, channels, _), count in zip(
            self.stages, self._repeats(), strict=True
        ):
            after = self.scaled(channels)
            for index in range(count):
                number, stride = len(found), 1 if index else stride
                pad = "square" if number in self.square_blocks else self.padding
                drop = self.drop_path * number / total
                more = (kernel, stride, expand, before, after)
                found.append(BlockSizes(*more, index > 0, drop, pad))
                before = after
        return found

    def _repeats(self) -> list[int]:
        ends = (0, len(self.stages) - 1) if self.fixed_ends else ()
        return [
            stage[4] if index in ends else math.ceil(self.depth_multiplier * stage[4])
            for index, stage in enumerate(self.stages)
        ]

    @nn.compact
    def __call__(self, images: Array, rng: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """Runs the tower.

        Args:
          images: float[B, H, W, 3].
          rng: key[B] in training: stochastic depth, and normalise by the batch's statistics and
            update the running ones (`batch_stats` must be mutable); None uses the running ones.

        Returns:
          (embedding float32[B, E], or `pooled` without a projection; {"tokens": [B, HW, C],
          "pooled": float32[B, C]}).

        Raises:
          UserError: an unknown padding or activation, stages that are none.
        """
        norm, dtype = (self.norm_momentum, self.norm_eps), pick(DTYPES, self.dtype, "dtype")
        how = _How(rng is not None, self.activation, *norm, self.se_ratio, dtype)
        x = how.conv(self.stem_width, 3, "stem", stride=2, padding=pads(3, 2, self.padding))(
            images.astype(how.dtype)
        )
        x = how.activate(x)
        kind = remat(_Block, self.remat, scanned=False)
        for number, sizes in enumerate(self.blocks()):
            x = kind(sizes, how, name=f"block{number}")(x, rngs.fold(rng, f"block{number}"))
        if self.top_width:
            x = how.activate(how.conv(self.width, 1, "top")(x))
        # jaxlib 0.12's CPU would pool bfloat16 inside the last stage, and get NaN.
        x = jax.lax.optimization_barrier(x)
        pooled = x.astype(jnp.float32).mean((1, 2))  # [B, C]
        out = {"tokens": rearrange(x, "b h w c -> b (h w) c"), "pooled": pooled}
        if self.embed_dim in (0, self.width):
            return pooled, out
        init = nn.initializers.normal(self.width**-0.5)
        head = nn.Dense(self.embed_dim, use_bias=False, kernel_init=init, name="head")
        return head(pooled), out


class _How(NamedTuple):
    """What all blocks of a network share."""

    train: bool
    activation: str
    momentum: float
    eps: float
    se_ratio: float
    dtype: jnp.dtype

    def conv(self, features: int, kernel: int, name: str, **more: object) -> ConvNorm:
        """A convolution with its BatchNorm."""
        norm = dict(momentum=self.momentum, eps=self.eps, dtype=self.dtype)
        settings = {"init": _fan_out, "padding": "SAME", **norm, **more}
        return ConvNorm(features, kernel, self.train, name=name, **settings)

    def activate(self, x: Array) -> Array:
        """The activation."""
        return pick(ACTIVATIONS, self.activation, "image.activation")(x)


class _Block(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project: [B, H, W, C] -> [B, H', W', C']."""

    sizes: BlockSizes
    how: _How

    @nn.compact
    def __call__(self, x: Array, rng: Array | None) -> Array:
        s, how, inside = self.sizes, self.how, self.sizes.before * self.sizes.expand
        out = x
        if s.expand != 1:
            out = how.activate(how.conv(inside, 1, "expand")(out))
        pad = pads(s.kernel, s.stride, s.padding)
        depth = dict(stride=s.stride, groups=inside, padding=pad, init=_fan_in)
        out = how.activate(how.conv(inside, s.kernel, "depthwise", **depth)(out))
        if how.se_ratio:
            out = self._excite(out, max(1, int(s.before * how.se_ratio)))
        out = how.conv(s.after, 1, "project")(out)
        return x + drop_path(out, s.drop, rng) if s.residual else out

    def _excite(self, x: Array, middle: int) -> Array:
        """Each channel by a sigmoid of all channels' means; middle: channels between (a share of
        those before the block was expanded)."""
        dtype = self.how.dtype
        mean = x.astype(jnp.float32).mean((1, 2), keepdims=True).astype(dtype)  # [B, 1, 1, C]
        conv = lambda features, name: nn.Conv(  # noqa: E731
            features, (1, 1), dtype=dtype, kernel_init=_fan_out, name=name
        )
        hidden = self.how.activate(conv(middle, "reduce")(mean))
        return x * jax.nn.sigmoid(conv(x.shape[-1], "excite")(hidden))


_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # depthwise: sqrt(2) / kernel

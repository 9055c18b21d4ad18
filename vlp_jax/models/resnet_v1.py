"""The classic ResNet (arXiv:1512.03385, stride on the 3x3 convolution) with widths, a small-picture
stem and the selective kernels of SimCLRv2 (arXiv:2006.10029).

The file exists as the convolutional trunk of the self-supervised methods; CLIP's own variant is in
resnet.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array
from vlp_jax.nn.conv import ConvNorm, SelectiveKernel
from vlp_jax.nn.precision import DTYPES

LAYERS = {  # blocks per stage
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
STEMS = ("imagenet", "cifar")
POOL_PADDING = {"same": "SAME", "torch": ((1, 1), (1, 1))}  # of the stem's 3x3/2 max-pool


def stem_pool(x: Array, padding: str) -> Array:
    """The stem's 3x3/2 max-pool, [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    Raises:
      UserError: an unknown padding.
    """
    if padding not in POOL_PADDING:
        raise UserError(f"image.pool_padding: unknown {padding!r}{nearest(padding, POOL_PADDING)}")
    return nn.max_pool(x, (3, 3), (2, 2), POOL_PADDING[padding])


def short_pool(x: Array, stride: int) -> Array:
    """The 2x2 mean before a shortcut's 1x1 convolution (ResNet-D, arXiv:1812.01187): at stride 2
    padded with a zero behind, at stride 1 the mean over what is there, as in the SimCLRv2 code.
    """
    if stride == 1:
        return nn.avg_pool(x, (2, 2), (1, 1), "SAME", count_include_pad=False)
    return nn.avg_pool(x, (2, 2), (stride, stride), ((0, 1), (0, 1)))


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions, or with expand = 4 a bottleneck 1x1, 3x3, 1x1."""

    planes: int
    stride: int
    expand: int
    sk_ratio: float
    train: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def conv(
            features: int, kernel: int, name: str, stride: int = 1, last: bool = False
        ) -> ConvNorm:
            return ConvNorm(features, kernel, self.train, stride, last, self.dtype, name=name)

        features = self.expand * self.planes
        if self.expand == 1:
            out = nn.relu(conv(self.planes, 3, "conv1", self.stride)(x))
            out = conv(features, 3, "conv2", last=True)(out)
        else:
            out = nn.relu(conv(self.planes, 1, "conv1")(x))
            if self.sk_ratio:
                sizes = (self.planes, self.stride, self.sk_ratio, self.train, self.dtype)
                out = SelectiveKernel(*sizes, name="conv2")(out)
            else:
                out = nn.relu(conv(self.planes, 3, "conv2", self.stride)(out))
            out = conv(features, 1, "conv3", last=True)(out)
        if self.stride > 1 or x.shape[-1] != features:
            stride = self.stride
            if self.sk_ratio:
                x, stride = short_pool(x, stride), 1
            x = conv(features, 1, "downsample", stride)(x)
        return nn.relu(out + x)


class ResNet(nn.Module):
    """Pictures [B, H, W, 3] to the mean of the last stage's map, [B, C].

    Batch statistics are those of the whole array, so under jit over a mesh they are global. The
    first block has a projection shortcut only where the channels change (torchvision's layout).

    Attributes:
      image_size: side of the pictures that a method prepares; the network takes any.
      depth: 18, 34 (C = 512 x width_multiplier), 50, 101, 152 or 200 (2048 x width_multiplier).
      width_multiplier: scales stem, stages and C.
      stem: `imagenet` (7x7/2 and a 3x3/2 max-pool) or `cifar` (3x3/1, no pool).
      pool_padding: of the stem's max-pool: `same` as SimCLR, `torch` for weights made there.
      sk_ratio: above 0 selective kernels and ResNet-D stem and shortcuts; 0.0625 in SimCLRv2.
      embed_dim: E of a linear projection of the mean; 0 has none.
    """

    image_size: int
    depth: int = 50
    width_multiplier: float = 1.0
    stem: str = "imagenet"
    pool_padding: str = "same"
    sk_ratio: float = 0.0
    embed_dim: int = 0
    dtype: str = "float32"

    @property
    def width(self) -> int:
        """Channels of the stem; stage s of 4 has 2^(s - 1) times as many, times `expand`."""
        return int(64 * self.width_multiplier)

    @property
    def expand(self) -> int:
        """Output channels of a block over its inner ones."""
        return 4 if self.depth >= 50 else 1

    def blocks(self) -> list[tuple[str, int, int]]:
        """(name, inner channels, stride) of every block in order.

        Raises:
          UserError: an unknown depth.
        """
        if self.depth not in LAYERS:
            raise UserError(f"image.depth={self.depth}: must be one of {tuple(LAYERS)}")
        return [
            (f"stage{s + 1}_block{i}", self.width * 2**s, 2 if s and not i else 1)
            for s, count in enumerate(LAYERS[self.depth])
            for i in range(count)
        ]

    def stem_convs(self) -> list[tuple[int, int, int]]:
        """(channels, kernel, stride) of the stem's convolutions.

        Raises:
          UserError: an unknown stem.
        """
        if self.stem not in STEMS:
            raise UserError(f"image.stem: unknown {self.stem!r}{nearest(self.stem, STEMS)}")
        if self.stem == "cifar":
            return [(self.width, 3, 1)]
        if not self.sk_ratio:
            return [(self.width, 7, 2)]
        return [(self.width // 2, 3, 2), (self.width // 2, 3, 1), (self.width, 3, 1)]

    @nn.compact
    def __call__(self, images: Array, rng: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """Runs the tower.

        Args:
          images: float[B, H, W, 3].
          rng: key[B] in training: normalise by the batch's statistics and update the running ones
            (`batch_stats` must be mutable); None uses the running ones.

        Returns:
          (embedding float32[B, E], or `pooled` without a projection; {"tokens": [B, HW, C],
          "pooled": float32[B, C], "stage1" ... "stage4": [B, H, W, C] maps, strides 4 to 32, or 1
          to 8 with the cifar stem}).

        Raises:
          UserError: an unknown depth, stem or padding.
        """
        train, dtype = rng is not None, DTYPES[self.dtype]
        x, out = self._stem(images.astype(dtype), train, dtype), {}
        for name, planes, stride in self.blocks():
            sizes = (planes, stride, self.expand, self.sk_ratio, train, dtype)
            x = _Block(*sizes, name=name)(x)
            out[name.split("_")[0]] = x  # the last block of a stage stays
        # jaxlib 0.12's CPU would pool bfloat16 inside the last stage, and get NaN.
        x = jax.lax.optimization_barrier(x)
        pooled = x.astype(jnp.float32).mean((1, 2))  # [B, C]
        out |= {"tokens": rearrange(x, "b h w c -> b (h w) c"), "pooled": pooled}
        if not self.embed_dim:
            return pooled, out
        init = nn.initializers.normal(pooled.shape[-1] ** -0.5)
        head = nn.Dense(self.embed_dim, use_bias=False, kernel_init=init, name="head")
        return head(pooled), out

    def _stem(self, x: Array, train: bool, dtype: jnp.dtype) -> Array:
        for index, (features, kernel, stride) in enumerate(self.stem_convs(), start=1):
            name = f"stem{index}"
            x = nn.relu(ConvNorm(features, kernel, train, stride, dtype=dtype, name=name)(x))
        return x if self.stem == "cifar" else stem_pool(x, self.pool_padding)

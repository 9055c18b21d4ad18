"""ModifiedResNet of CLIP: three-convolution stem, anti-aliased strides, attention pooling (clip.md
2.4).

The file exists as the convolutional image tower; batch statistics live in flax's `batch_stats`
collection.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array
from vlp_jax.nn.attention import Project, attend
from vlp_jax.nn.conv import ConvNorm
from vlp_jax.nn.precision import DTYPES


def average_pool(x: Array, side: int) -> Array:
    """Non-overlapping mean over side x side windows of [B, H, W, C]; side 1 is the identity."""
    return nn.avg_pool(x, (side, side), (side, side)) if side > 1 else x


class _Bottleneck(nn.Module):
    """1x1, 3x3, average pool, 1x1 with a residual; the shortcut pools before its 1x1
    convolution.
    """

    planes: int
    stride: int
    train: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def conv(features: int, kernel: int, name: str, zero_scale: bool = False) -> ConvNorm:
            return ConvNorm(features, kernel, self.train, 1, zero_scale, self.dtype, name=name)

        out = nn.relu(conv(self.planes, 1, "conv1")(x))
        out = nn.relu(conv(self.planes, 3, "conv2")(out))
        out = conv(4 * self.planes, 1, "conv3", zero_scale=True)(average_pool(out, self.stride))
        if self.stride > 1 or x.shape[-1] != 4 * self.planes:
            x = conv(4 * self.planes, 1, "downsample")(average_pool(x, self.stride))
        return nn.relu(out + x)


class _QueryPool(nn.Module):
    """Attention pooling whose only query is the mean token. [B, H, W, C] -> [B, E]"""

    num_heads: int
    embed_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = rearrange(x, "b h w c -> b (h w) c")
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)  # [B, 1 + HW, C]
        width = x.shape[-1]
        init = nn.initializers.normal(width**-0.5)
        x = x + self.param("pos_embed", init, x.shape[1:]).astype(self.dtype)

        def project(name: str, tokens: Array) -> Array:
            heads = (self.num_heads, width // self.num_heads)
            rows = Project(heads, 1, init, self.dtype, name=name)(tokens)
            return rearrange(rows, "b n h k -> b h n k")

        pooled = attend(project("query", x[:, :1]), project("key", x), project("value", x))
        pooled = rearrange(pooled, "b h one k -> b one h k")
        return Project((self.embed_dim,), 2, init, self.dtype, name="out")(pooled)[:, 0]


class ModifiedResNet(nn.Module):
    """Pictures [B, H, W, 3] to an embedding [B, E].

    Attributes:
      image_size: side of the input, a multiple of 32.
      layers: bottlenecks per stage.
      width: base width of the stem; the last stage has 32 x width channels, the pooling width / 2
        heads.
      embed_dim: E.
    """

    image_size: int
    layers: tuple[int, ...]
    width: Size = 64
    embed_dim: int = 1024
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Array, rng: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """Runs the tower.

        Args:
          images: float[B, H, W, 3], normalised.
          rng: key[B] in training: normalise by the batch's statistics and update the running ones
            (`batch_stats` must be mutable); None uses the running ones.

        Returns:
          (embedding float32[B, E], {"tokens": [B, HW, C], "pooled": float32[B, E]}): this tower has
          no projection apart from the pooling, so `pooled` is the embedding.

        Raises:
          UserError: image_size is no multiple of 32, or pictures of another size.
        """
        train = rng is not None
        if self.image_size % 32 or images.shape[1:3] != (self.image_size,) * 2:
            got = f"{images.shape[1]}x{images.shape[2]}"
            raise UserError(
                f"pictures are {got} but the ResNet takes image_size={self.image_size}, "
                "a multiple of 32"
            )
        dtype = DTYPES[self.dtype]
        x = images.astype(dtype)
        for index, features in enumerate((self.width // 2, self.width // 2, self.width), start=1):
            stride = 2 if index == 1 else 1
            x = nn.relu(ConvNorm(features, 3, train, stride, dtype=dtype, name=f"stem{index}")(x))
        x = average_pool(x, 2)
        for stage, count in enumerate(self.layers):
            for index in range(count):
                stride = 2 if stage and not index else 1
                name = f"stage{stage + 1}_block{index}"
                x = _Bottleneck(self.width * 2**stage, stride, train, dtype, name=name)(x)
        pooled = _QueryPool(self.width // 2, self.embed_dim, dtype, name="attnpool")(x).astype(
            jnp.float32
        )
        return pooled, {"tokens": rearrange(x, "b h w c -> b (h w) c"), "pooled": pooled}

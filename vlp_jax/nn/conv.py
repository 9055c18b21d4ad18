"""Convolutions with their BatchNorm, and selective kernels: the layers of the ResNets and the
EfficientNets.

The file exists because three networks share them.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.types import Array


class ConvNorm(nn.Module):
    """A bias-free convolution followed by BatchNorm, `conv` and `bn` in its scope.

    kernel: its side, or height and width. padding: of each side, or flax's word; None: what keeps
    the size at stride 1. momentum: share of the running statistics that stays at a step. init: of
    the kernel, None: flax's own.
    """

    features: int
    kernel: int | tuple[int, int]
    train: bool
    stride: int = 1
    zero_scale: bool = False
    dtype: jnp.dtype = jnp.float32
    groups: int = 1
    padding: Any = None
    momentum: float = 0.9
    eps: float = 1e-5
    init: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = (self.kernel,) * 2 if isinstance(self.kernel, int) else self.kernel
        stride = (self.stride, self.stride)
        x = nn.Conv(
            self.features,
            size,
            stride,
            padding=[(k // 2, k // 2) for k in size] if self.padding is None else self.padding,
            feature_group_count=self.groups,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=self.init or nn.initializers.lecun_normal(),
            conv_general_dilated=depthwise if self.groups == x.shape[-1] > 1 else None,
            name="conv",
        )(x)
        scale = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        norm = nn.BatchNorm(
            momentum=self.momentum,
            epsilon=self.eps,
            dtype=self.dtype,
            scale_init=scale,
            name="bn",
        )
        return norm(x, use_running_average=not self.train)


def depthwise(x: Array, kernel: Array, strides: Any, padding: Any, **how: Any) -> Array:
    """jax.lax.conv_general_dilated of one filter a channel, without dilation: [B, H, W, C] and [k,
    k, 1, C] to [B, H', W', C].

    On CPUs it is a sum over the kernel's places, in float32: XLA's grouped convolutions have no
    fast form there (forward and backward take up to six times as long).
    """
    native = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **how
    )
    sides = padding
    if isinstance(padding, str):
        sides = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)

    def places(x: Array, kernel: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), *sides, (0, 0))).astype(jnp.float32)
        rows, columns = (  # of each place of the kernel
            [slice(at, size - side + at + 1, stride) for at in range(side)]
            for size, side, stride in zip(padded.shape[1:], kernel.shape, strides, strict=False)
        )
        weights = kernel[:, :, 0].astype(jnp.float32)
        return sum(
            padded[:, row, column] * weights[i, j]
            for i, row in enumerate(rows)
            for j, column in enumerate(columns)
        ).astype(x.dtype)

    return jax.lax.platform_dependent(x, kernel, cpu=places, default=native)


class SelectiveKernel(nn.Module):
    """Two 3x3 streams mixed by a softmax per channel of their pooled sum (arXiv:1903.06586 in the
    form of SimCLRv2).
    """

    features: int
    stride: int
    ratio: float
    train: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def conv(features: int, kernel: int, stride: int, name: str) -> ConvNorm:
            return ConvNorm(features, kernel, self.train, stride, dtype=self.dtype, name=name)

        x = nn.relu(conv(2 * self.features, 3, self.stride, "streams")(x))
        x = rearrange(x, "b h w (two c) -> two b h w c", two=2)
        middle = max(int(self.features * self.ratio), 32)
        pooled = x.sum(0).mean((1, 2), keepdims=True)  # [B, 1, 1, C]
        pooled = nn.relu(conv(middle, 1, 1, "squeeze")(pooled))
        mix = nn.Conv(2 * self.features, (1, 1), use_bias=False, dtype=self.dtype, name="mix")
        mixing = rearrange(mix(pooled), "b h w (two c) -> two b h w c", two=2)
        mixing = jax.nn.softmax(mixing.astype(jnp.float32), axis=0).astype(x.dtype)
        return (x * mixing).sum(0)  # [B, H, W, C]

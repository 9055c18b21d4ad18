"""Inception v3 (arXiv:1512.00567): torchvision's, and the one whose features FID, KID and the
Inception Score are defined on (TensorFlow's graph of 2015-12-05, as torch-fidelity 0.4 and
pytorch-fid rebuild it).

Both have one set of names and shapes and differ in their pools. The file exists so that figures of
generated pictures can be the published ones.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array
from vlp_jax.nn.conv import ConvNorm
from vlp_jax.nn.precision import DTYPES, pick

POOLS = ("tensorflow", "torch")


class Conv(NamedTuple):
    """A convolution: channels, height and width of its kernel, stride; padded so that it keeps the
    size, or not at all.
    """

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    def side(self, before: int) -> int:
        """Of its map, of a square one of that side."""
        return before if self.padded else (before - self.kernel[0]) // self.stride + 1


def _down(name: str, features: int) -> Conv:
    return Conv(name, features, (3, 3), 2, padded=False)


STEM = (  # None: a 3x3/2 max-pool
    _down("conv1a_3x3", 32),
    Conv("conv2a_3x3", 32, (3, 3), padded=False),
    Conv("conv2b_3x3", 64, (3, 3)),
    None,
    Conv("conv3b_1x1", 80),
    Conv("conv4a_3x3", 192, (3, 3), padded=False),
    None,
)


class Branch(NamedTuple):
    """Convolutions in a row, after a 3x3 pool (`mean`, `max`) where there is one; those of `ends`
    all see what comes out of that row, and lie side by side."""

    convs: tuple[Conv, ...] = ()
    ends: tuple[Conv, ...] = ()
    pool: str = ""


def _rows(name: str, *convs: tuple[int, int, int], down: int = 0) -> Branch:
    """A branch of (channels, kernel's height, width); down: channels of one more at stride 2."""
    made = [Conv(f"{name}_{i}", n, (h, w)) for i, (n, h, w) in enumerate(convs, start=1)]
    made += [_down(f"{name}_{len(convs) + 1}", down)] if down else []
    return Branch(tuple(made))


def _small(pooled: int) -> tuple[Branch, ...]:
    """Maps of 35 x 35."""
    return (
        Branch((Conv("branch1x1", 64),)),
        _rows("branch5x5", (48, 1, 1), (64, 5, 5)),
        _rows("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        Branch((Conv("branchpool", pooled),), pool="mean"),
    )


def _factored(inner: int) -> tuple[Branch, ...]:
    """Maps of 17 x 17: 7 x 7 as 1 x 7 and 7 x 1."""
    double = ((inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7))
    return (
        Branch((Conv("branch1x1", 192),)),
        _rows("branch7x7", (inner, 1, 1), (inner, 1, 7), (192, 7, 1)),
        _rows("branch7x7dbl", *double),
        Branch((Conv("branchpool", 192),), pool="mean"),
    )


def _wide(pool: str) -> tuple[Branch, ...]:
    """Maps of 8 x 8: two branches end in 1 x 3 beside 3 x 1."""
    ends = lambda at: (Conv(f"{at}a", 384, (1, 3)), Conv(f"{at}b", 384, (3, 1)))  # noqa: E731
    double = (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)))
    return (
        Branch((Conv("branch1x1", 320),)),
        Branch((Conv("branch3x3_1", 384),), ends("branch3x3_2")),
        Branch(double, ends("branch3x3dbl_3")),
        Branch((Conv("branchpool", 192),), pool=pool),
    )


def blocks(pools: str) -> dict[str, tuple[Branch, ...]]:
    """The branches of every block in order; pools: see Inception."""
    last = "max" if pools == "tensorflow" else "mean"
    return {
        **{f"mixed5{at}": _small(pooled) for at, pooled in zip("bcd", (32, 64, 64), strict=True)},
        "mixed6a": (
            Branch((_down("branch3x3", 384),)),
            _rows("branch3x3dbl", (64, 1, 1), (96, 3, 3), down=96),
            Branch(pool="down"),
        ),
        **{
            f"mixed6{at}": _factored(inner)
            for at, inner in zip("bcde", (128, 160, 160, 192), strict=True)
        },
        "mixed7a": (
            _rows("branch3x3", (192, 1, 1), down=320),
            _rows("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), down=192),
            Branch(pool="down"),
        ),
        "mixed7b": _wide("mean"),
        "mixed7c": _wide(last),
    }


def pooled_map(x: Array, kind: str, pools: str) -> Array:
    """A 3x3 pool of [B, H, W, C].

    kind: `down` halves, by the largest and without padding; `mean` and `max` keep the size. At the
    rim TensorFlow's mean is over what is there, torchvision's counts nine.

    Worked example: of a 2 x 2 map of ones `mean` is 1 for `tensorflow`, 4 / 9 for `torch`.
    """
    if kind == "down":
        return nn.max_pool(x, (3, 3), (2, 2))
    if kind == "max":
        return nn.max_pool(x, (3, 3), padding="SAME")
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=pools == "torch")


class Inception(nn.Module):
    """Pictures [B, H, W, 3] to the mean of the last map, [B, 2048].

    Attributes:
      image_size: side of the pictures that a method prepares; the network takes any from 75.
      pools: `torch`, or `tensorflow`: means at the rim are over what is there, and the last block
        takes the largest instead of a mean.
    """

    image_size: int = 299
    pools: str = "torch"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Array, rng: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """Runs the tower.

        Args:
          images: float[B, H, W, 3].
          rng: key[B] in training: normalise by the batch's statistics and update the running ones
            (`batch_stats` must be mutable); None uses the running ones.

        Returns:
          (`pooled`; {"tokens": [B, HW, 2048], "pooled": float32[B, 2048]}).

        Raises:
          UserError: unknown pools.
        """
        if self.pools not in POOLS:
            raise UserError(f"image.pools: unknown {self.pools!r}{nearest(self.pools, POOLS)}")
        dtype = pick(DTYPES, self.dtype, "dtype")
        how = _How(rng is not None, dtype)
        x = images.astype(dtype)
        for conv in STEM:
            x = how(conv, x) if conv else pooled_map(x, "down", self.pools)
        # [B, 35, 35, 192] of 299 pixels
        for name, branches in blocks(self.pools).items():
            x = _Block(branches, self.pools, how, name=name)(x)
        # jaxlib 0.12's CPU would pool bfloat16 inside the last stage, and get NaN.
        x = jax.lax.optimization_barrier(x)
        pooled = x.astype(jnp.float32).mean((1, 2))  # [B, C]
        return pooled, {"tokens": rearrange(x, "b h w c -> b (h w) c"), "pooled": pooled}


class _How(NamedTuple):
    """What all convolutions share."""

    train: bool
    dtype: jnp.dtype

    def __call__(self, conv: Conv, x: Array) -> Array:
        """A convolution with BatchNorm and ReLU, in the module that calls."""
        settings = dict(eps=1e-3, dtype=self.dtype, padding=None if conv.padded else "VALID")
        sizes = (conv.features, conv.kernel, self.train, conv.stride)
        return nn.relu(ConvNorm(*sizes, name=conv.name, **settings)(x))


class _Block(nn.Module):
    """Branches side by side: [B, H, W, C] -> [B, H', W', C']."""

    branches: tuple[Branch, ...]
    pools: str
    how: _How

    @nn.compact
    def __call__(self, x: Array) -> Array:
        found = []
        for branch in self.branches:
            out = pooled_map(x, branch.pool, self.pools) if branch.pool else x
            for conv in branch.convs:
                out = self.how(conv, out)
            found += [self.how(conv, out) for conv in branch.ends] or [out]
        return jnp.concatenate(found, axis=-1)

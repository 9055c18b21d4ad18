"""Context prediction: where does this patch lie, seen from that one? (arXiv:1505.05192)

Nine patches of a 3 x 3 grid run through the trunk once and are asked in 16 pairs: the centre with
each neighbour, in both orders. Gap, jitter, colour dropping or projection and lost resolution close
the shortcuts (continued lines, chromatic aberration). The file exists to hold the question.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.augment.filters import pixelate
from vlp_jax.augment.tiles import cut, mosaic
from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Picture
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.pretext import Answers, LabelTask
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.head import Head

CENTRE = 4
AROUND = np.array([0, 1, 2, 3, 5, 6, 7, 8])  # grid cell of label 0 .. 7, row by row
SHOWN = (0, 4, 6)  # neighbours that are drawn
FEWEST = 100  # pixels in all of a patch that lost its resolution
# RGB without its part along the green-magenta axis (-1, 2, -1); greys stay (section 3.1)
PROJECTION = np.eye(3) - np.outer([-1, 2, -1], [-1, 2, -1]) / 6


def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first, second, label) int[16]: the second patch lies at AROUND[label], seen from the first.

    Worked example: (centre 4, north-west 0) is label 0, so (0, 4) is label 7, south-east.
    """
    labels = np.arange(8)
    centre = np.full(8, CENTRE)
    return (
        np.concatenate([centre, AROUND]),
        np.concatenate([AROUND, centre]),
        np.concatenate([labels, 7 - labels]),
    )


def drop_colour(patch: Array, key: Array, share: float, level: Array) -> Array:
    """With probability `share` keeps one random channel, centred, and fills the others with noise
    of half a grey level to both sides; level: float32[3], one of 255 as the patch counts. [S, S, 3]
    """
    chosen, channel, noise = jax.random.split(key, 3)
    kept = jnp.arange(3) == jax.random.randint(channel, (), 0, 3)
    dull = level * jax.random.uniform(noise, patch.shape, minval=-0.5, maxval=0.5)
    dropped = jnp.where(kept, patch - patch.mean((0, 1)), dull)
    return jnp.where(jax.random.bernoulli(chosen, share), dropped, patch)


def downsample(patch: Array, key: Array, share: float) -> Array:
    """With probability `share` a patch is shrunk to a number of pixels drawn from [100, (S - 1)^2],
    and enlarged again. [S, S, 3]
    """
    if not share:
        return patch
    chosen, area = jax.random.split(key)
    most = (patch.shape[0] - 1) ** 2
    pixels = jax.random.uniform(area, minval=min(FEWEST, most), maxval=most)
    coarse = pixelate(patch, jnp.floor(jnp.sqrt(pixels)))
    return jnp.where(jax.random.bernoulli(chosen, share), coarse, patch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context(LabelTask):
    """The tower sees patches (its image_size is the patch); a head on two patches names one of
    eight places.

    Attributes:
      picture_size: S of the pictures the grid is cut from.
      gap: pixels between neighbouring patches.
      jitter: each patch moves by up to this many pixels in both axes.
      color_drop: share of patches that lose two channels in training and in the task.
      color_projection: moves green and magenta towards grey in every picture the tower sees, the
        paper's alternative to color_drop.
      downsample: share of patches that lose resolution, down to 100 pixels, in training and in the
        task; 0.33 as published.
      divide_rms: the tower sees every patch divided by its root mean square, as published (whose
        further factor of 50 suits a network that expects pixels up to 127).
      hidden: widths of the head's layers.
      sum_pairs: the published loss sums the pairs of a picture; the mean is 16 times smaller.
    """

    picture_size: int
    gap: int = 48
    jitter: int = 7
    color_drop: float = 1.0
    color_projection: bool = False
    downsample: float = 0.0
    divide_rms: bool = False
    hidden: tuple[int, ...] = (4096, 4096)
    sum_pairs: bool = False

    def __post_init__(self) -> None:
        need = self.extent
        if min(self.gap, self.jitter) < 0 or self.picture_size < need:
            raise UserError(
                f"method.picture_size={self.picture_size}: a grid of 3 patches of "
                f"{self.image_tower.image_size} with gap={self.gap} and jitter={self.jitter} "
                f"needs {need}"
            )

    @functools.cached_property
    def extent(self) -> int:
        """Side of the whole grid in pixels, jitter included."""
        return 3 * self.image_tower.image_size + 2 * self.gap + 2 * self.jitter

    def fields(self) -> dict[str, Field]:
        """image, of picture_size."""
        return {"image": Picture(self.picture_size, key="method.picture_size")}

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """head: on two pooled outputs side by side."""
        return {"head": Part(Head(8, self.hidden), (floats(1, 2 * out["pooled"].shape[-1]),))}

    def corners(self, keys: Array | None, count: int) -> Array:
        """Upper left corners of the nine patches int32[B, 9, 2]: a random place of the grid and a
        random shift of each patch; keys None: the grid in the middle, no shift.
        """
        step = self.image_tower.image_size + self.gap
        grid = jnp.stack(jnp.meshgrid(jnp.arange(3), jnp.arange(3), indexing="ij"), -1) * step
        grid, slack = grid.reshape(9, 2) + self.jitter, self.picture_size - self.extent
        if keys is None:
            return jnp.broadcast_to(grid + slack // 2, (count, 9, 2))

        def place(key: Array) -> Array:
            at = jax.random.randint(jax.random.fold_in(key, 0), (2,), 0, slack + 1)
            shift = jax.random.randint(
                jax.random.fold_in(key, 1), (9, 2), -self.jitter, self.jitter + 1
            )
            return grid + at + shift

        return jax.vmap(place)(keys)

    def prepare(self, images: Array, rng: Array | None) -> Array:
        """As every trunk's, colours projected where that is on."""
        if not self.color_projection:
            return super().prepare(images, rng)
        pixels = jnp.matmul(self.augmented(images, rng), PROJECTION, precision="highest")
        return self.normalised(pixels)

    def spoiled(self, patches: Array, keys: Array) -> Array:
        """Patches [B, 9, S, S, 3], some coarser, some without their colours; keys: key[B]."""
        level = 1 / (255 * jnp.asarray(self.image_std, jnp.float32))
        ways = {
            "downsample": (downsample, self.downsample),
            "colour": (functools.partial(drop_colour, level=level), self.color_drop),
        }
        for name, (change, share) in ways.items():
            each = jax.vmap(lambda key: jax.random.split(key, 9))(rngs.fold(keys, name))
            patches = jax.vmap(jax.vmap(functools.partial(change, share=share)))(patches, each)
        return patches

    def levelled(self, patches: Array) -> Array:
        """Patches [B, 9, S, S, 3], where that is on each of root mean square 1; zero stays zero."""
        if not self.divide_rms:
            return patches
        square = jnp.square(patches).mean((2, 3, 4), keepdims=True)
        return patches * jax.lax.rsqrt(square + 1e-6)

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """logits float32[B, 16, 8] and labels int32[B, 16]; corners int32[B, 9, 2] for drawing."""
        corners = self.corners(rngs.fold(keys, "place"), len(keys))
        patches = cut(self.prepare(x.batch["image"], x.keys), corners, self.image_tower.image_size)
        pooled, moved = self.run_views(v, x, self.levelled(self.spoiled(patches, keys)))
        first, second, labels = pairs()
        both = jnp.concatenate([pooled[:, first], pooled[:, second]], axis=-1)  # [B, 16, 2D]
        logits = self.apply("head", v, x, both)
        labels = jnp.broadcast_to(jnp.asarray(labels), logits.shape[:2])
        return {"logits": logits, "labels": labels, "corners": corners}, moved

    def objective(self, v: Vars, rows: Answers, x: Inputs) -> tuple[Array, Aux]:
        """Cross-entropy, its mean or sum over the pairs of a picture."""
        loss, aux = super().objective(v, rows, x)
        return loss * (16 if self.sum_pairs else 1), aux

    def show(self, images: Array, rows: Answers) -> Array:
        """6 panels: three neighbours beside the centre, each at its true and at its answered
        place.
        """
        side = self.image_tower.image_size
        patches = cut(images, rows["corners"], side)
        guess = rows["logits"].argmax(-1)  # [B, 16]
        panels = []
        for label in SHOWN:
            for place in (jnp.full(len(images), label), guess[:, label]):
                cell = jnp.asarray(AROUND)[place]  # [B]
                here = jnp.arange(9) == cell[:, None]  # [B, 9]
                tiles = jnp.where(
                    here[:, :, None, None, None], patches[:, AROUND[label], None], 1.0
                )
                tiles = tiles.at[:, CENTRE].set(patches[:, CENTRE])
                panels.append(mosaic(jnp.pad(tiles, [(0, 0)] * 2 + [(1, 1)] * 2 + [(0, 0)])))
        return jnp.stack(panels, axis=1)

    def functions(self) -> dict[str, Function]:
        """features: the mean of the nine patches' pooled outputs, grid in the middle, in colour."""

        def features(v: Vars, x: Inputs, _: None) -> Array:
            ready = self.prepare(x.batch["image"], x.keys)
            patches = cut(ready, self.corners(None, len(ready)), self.image_tower.image_size)
            return self.run_views(v, x, self.levelled(patches))[0].mean(1)

        found = super().functions()
        return found | {"features": Function(features, found["features"].reads)}

"""Jigsaw puzzles: in which order do these tiles lie? (arXiv:1603.09246)

The trunk runs once on every tile; a permutation only reorders its outputs. Tiles are taken at
random inside their cells and standardised one by one, against continued edges and colours. The file
exists to hold the question.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vlp_jax.augment.permutations import distant_permutations
from vlp_jax.augment.tiles import cut, mosaic, standardise
from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Picture
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.schema import Rate
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.pretext import Answers, LabelTask
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.head import Head
from vlp_jax.nn.dropout import dropout
from vlp_jax.nn.frozen import keys_beside


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jigsaw(LabelTask):
    """The tower sees tiles (its image_size is the tile); a head on all of them names the
    permutation.

    Attributes:
      picture_size: S of the pictures that are cut into cells.
      grid: G, cells per side: 3 (nine tiles) or 2.
      permutations: classes, chosen far apart (augment/permutations.py).
      draws: permutations asked of each picture; its tiles run through the trunk once.
      tile_width: width of the layer on each tile before they are joined.
      hidden: widths of the layers on the joined tiles.
      dropout: rate in training after the layer on each tile and those on the joined tiles.
    """

    picture_size: int
    grid: int = 3
    permutations: int = 1000
    draws: int = 1
    tile_width: int = 1024
    hidden: tuple[int, ...] = (4096,)
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        if self.grid not in (2, 3):
            raise UserError(f"method.grid={self.grid}: 2 or 3 tiles a side")
        tile, need = self.image_tower.image_size, self.grid * self.image_tower.image_size
        if self.picture_size < need:
            raise UserError(
                f"method.picture_size={self.picture_size}: {self.grid} tiles of {tile} need {need}"
            )
        most = math.factorial(self.grid**2)
        if not 2 <= self.permutations <= most:
            raise UserError(f"method.permutations={self.permutations}: from 2 to {most}")

    def fields(self) -> dict[str, Field]:
        """image, of picture_size."""
        return {"image": Picture(self.picture_size)}

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """tile_head: on each tile; head: on all tiles side by side."""
        head = Head(self.permutations, self.hidden, self.dropout)
        return {
            "tile_head": Part(Head(self.tile_width), (out["pooled"],)),
            "head": Part(head, (floats(1, self.grid**2 * self.tile_width),)),
        }

    @functools.cached_property
    def orders(self) -> np.ndarray:
        """int8[permutations, G * G]: place k of class c shows tile orders[c, k]."""
        return distant_permutations(self.grid**2, self.permutations)

    def corners(self, keys: Array | None, count: int) -> Array:
        """Upper left corners of the tiles int32[B, G * G, 2], at random in their cells; keys None:
        in the middle.
        """
        cell, places = self.picture_size // self.grid, jnp.arange(self.grid)
        grid = jnp.stack(jnp.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2) * cell
        slack = cell - self.image_tower.image_size
        if keys is None:
            return jnp.broadcast_to(grid + slack // 2, (count, *grid.shape))
        draw = lambda key: jax.random.randint(key, grid.shape, 0, slack + 1)  # noqa: E731
        return grid + jax.vmap(draw)(keys)

    def tiles(self, v: Vars, x: Inputs, corners: Array) -> tuple[Array, Extra]:
        """The trunk's pooled output of every tile, in reading order. float32[B, G * G, D]"""
        pixels = self.prepare(x.batch["image"], x.keys)
        return self.run_views(v, x, standardise(cut(pixels, corners, self.image_tower.image_size)))

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """logits float32[B, draws, C] and labels int32[B, draws]; corners for drawing."""
        corners = self.corners(rngs.fold(keys, "place"), len(keys))
        pooled, moved = self.tiles(v, x, corners)
        pooled = jax.nn.relu(self.apply("tile_head", v, x, pooled))
        dropped = keys_beside("tile_head", rngs.fold(x.keys, "tile_head"))
        pooled = dropout(pooled, self.dropout, dropped)
        draw = lambda key: jax.random.randint(key, (self.draws,), 0, self.permutations)  # noqa: E731
        labels = jax.vmap(draw)(rngs.fold(keys, "order"))
        order = jnp.asarray(self.orders, jnp.int32)[labels]  # [B, draws, G * G]
        shuffled = jax.vmap(lambda tiles, places: tiles[places])(pooled, order)
        joined = rearrange(shuffled, "b m k d -> b m (k d)")
        logits = self.apply("head", v, x, joined)
        return {"logits": logits, "labels": labels, "corners": corners}, moved

    def show(self, images: Array, rows: Answers) -> Array:
        """3 panels: the tiles as asked, put back by the answer, and as they were."""
        tiles = cut(images, rows["corners"], self.image_tower.image_size)
        tiles = jnp.pad(tiles, [(0, 0)] * 2 + [(1, 1)] * 2 + [(0, 0)], constant_values=1.0)
        orders = jnp.asarray(self.orders, jnp.int32)
        take = jax.vmap(lambda tiles, places: tiles[places])
        asked = take(tiles, orders[rows["labels"][:, 0]])
        back = jnp.argsort(orders, axis=1)[rows["logits"][:, 0].argmax(-1)]  # the inverse
        return jnp.stack([mosaic(t) for t in (asked, take(asked, back), tiles)], axis=1)

    def functions(self) -> dict[str, Function]:
        """features: the mean of the tiles' pooled outputs, taken from the middle of their cells."""

        def features(v: Vars, x: Inputs) -> Array:
            return self.tiles(v, x, self.corners(None, len(x.index)))[0].mean(1)

        found = super().functions()
        return found | {"features": Function(features, found["features"].reads)}

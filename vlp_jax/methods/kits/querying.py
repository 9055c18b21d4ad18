"""A frozen eye and queries that look at what it sees: what both stages of BLIP-2 share
(arXiv:2301.12597, section 3.1; reference: salesforce/LAVIS).

The file exists so that a stage says its losses and what stands behind the queries, nothing else.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vlp_jax.augment import pictures
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Field, Numbers
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.types import Array
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.methods.kits.varied import Varied
from vlp_jax.models.flops import tower_flops
from vlp_jax.models.qformer import QFormer, reads
from vlp_jax.models.state_norm import StateNorm
from vlp_jax.nn.cache import Cache
from vlp_jax.nn.precision import DTYPES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Querying(Varied):
    """Parts image (a tower that gives all its tokens), image_norm, queries float32[Q, D] and
    qformer (models/qformer.py).

    Attributes:
      qformer: config of the Q-Former; the others: see Varied and Trunk.
      frozen_tower: False trains it too, as fine-tuning does.
      tower_dtype: of a frozen tower's weights.
      image_norm_eps: of image_norm; 1e-5 in the reference, 1e-6 in transformers.
    """

    qformer: Mapping[str, Any]
    image_mean: tuple[float, float, float] = pictures.CLIP_MEAN
    image_std: tuple[float, float, float] = pictures.CLIP_STD
    frozen_tower: bool = True
    tower_dtype: str = "float32"
    image_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Raises UserError for a dtype that there is not."""
        if self.tower_dtype not in DTYPES:
            hint = nearest(self.tower_dtype, DTYPES)
            raise UserError(f"method.tower_dtype: unknown {self.tower_dtype!r}{hint}")

    @functools.cached_property
    def query_net(self) -> QFormer:
        """The Q-Former."""
        return self.tower("qformer")

    @functools.cached_property
    def states_shape(self) -> tuple[int, int]:
        """(tokens of a picture, their width).

        Raises:
          UserError: a tower that gives one vector.
        """
        shape = self.image_shapes["pooled"].shape[1:]
        if len(shape) != 2:
            raise UserError("method.image.pool: queries look at all tokens; set it to tokens")
        return shape

    @property
    def states_field(self) -> Numbers:
        """image_states as another function reads them, or a cache gives them."""
        return Numbers(self.states_shape, self.image_tower.dtype)

    @property
    def shown(self) -> dict[str, Field]:
        """What queries look at and read where nothing is cached: image."""
        return {"image": super().fields()["image"]}

    def fields(self) -> dict[str, Field]:
        """image, or what a cache holds in its place, image_states."""
        if not self.frozen_tower:
            return super().fields()
        return super().fields() | {
            "image_states": dataclasses.replace(self.states_field, optional=True)
        }

    def parts(self) -> dict[str, Part]:
        """image, image_norm, queries, qformer."""
        (count, width), net = self.states_shape, self.query_net
        image = super().parts()["image"]
        if self.frozen_tower:
            image = dataclasses.replace(image, frozen=True, dtype=self.tower_dtype)
        norm = StateNorm(self.image_norm_eps, self.dtype)
        shape = net.num_queries, net.width
        draw = lambda key: 0.02 * jax.random.normal(key, shape)  # noqa: E731
        return {
            "image": image,
            "image_norm": Part(norm, (floats(1, 1, width),)),
            "queries": Part(Leaf(draw)),
            "qformer": Part(net, reads(net, width, count)),
        }

    def see(self, v: Vars, x: Inputs) -> Array:
        """The tower's tokens [B, S, D'], in its own dtype, or as they lie in the batch."""
        if "image_states" in x.batch:
            return x.batch["image_states"]
        states, _, _ = self.run_image(v, x, self.prepare(x.batch["image"], x.keys))
        return states.astype(DTYPES[self.image_tower.dtype])

    def norm(self, v: Vars, x: Inputs, states: Array) -> Array:
        """The tower's tokens as queries look at them; no gradient goes into a frozen one."""
        states = jax.lax.stop_gradient(states) if self.frozen_tower else states
        return self.apply("image_norm", v, x, states)

    def read(
        self,
        v: Vars,
        x: Inputs,
        mode: str,
        ids: Array | None = None,
        mask: Array | None = None,
        states: Array | None = None,
        cache: Cache | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """The Q-Former in a mode beside normalised states: (its states, its other outputs)."""
        queries = v.params["queries"]
        return self.apply("qformer", v, x, queries, ids, mask, states, cache, mode=mode)

    def ask(self, v: Vars, x: Inputs) -> Array:
        """The queries' last states [B, Q, D] of a picture."""
        return self.read(v, x, "queries", states=self.norm(v, x, self.see(v, x)))[0]

    def functions(self) -> dict[str, Function]:
        """image_states: the tower's tokens [B, S, D'], which `data cache` keeps; queries:
        float32[B, Q, D], the Q-Former's last states; features: float32[B, D], their mean; pixels:
        see Trunk."""
        shown = self.shown
        image = {"image": shown["image"]}

        def queries(v: Vars, x: Inputs, _: None) -> Array:
            return self.ask(v, x).astype(jnp.float32)

        return super().functions() | {
            "features": Function(lambda v, x, _: queries(v, x, None).mean(1), image),
            "image_states": Function(lambda v, x, _: self.see(v, x), image),
            "queries": Function(queries, shown),
        }

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of a picture through the tower."""
        del text_length
        return tower_flops(self.image_tower)

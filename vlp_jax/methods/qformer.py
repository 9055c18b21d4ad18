"""A Q-Former alone, as transformers' Blip2QFormerModel releases it: its queries, and a text where
it reads one, come embedded.

The file exists so that such a network converts and proves itself, and other methods take it by
`init_from`.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Numbers
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Size
from vlp_jax.core.types import Array
from vlp_jax.methods.base import Function, Method, Part
from vlp_jax.models.qformer import QFormer as Network
from vlp_jax.models.qformer import reads
from vlp_jax.models.towers import make_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class QFormer(Method):
    """The part qformer, and nothing that trains it.

    Attributes:
      qformer: config of the network (models/qformer.py), with texts `none` or `states`.
      context_width: D' of the states that its queries look at.
    """

    qformer: Mapping[str, Any]
    context_width: Size = 1408

    @cached_property
    def net(self) -> Network:
        """The network."""
        return make_tower(self.qformer, "method.qformer")

    def fields(self) -> dict[str, Field]:
        """None."""
        return {}

    def parts(self) -> dict[str, Part]:
        """qformer."""
        return {"qformer": Part(self.net, reads(self.net, self.context_width))}

    def encode(self, v: Vars, x: Inputs) -> tuple[Any, Aux]:
        """Raises UserError: nothing here trains."""
        raise UserError(
            "method.name=qformer: a network alone has no loss; name its folder in init_from of a"
            " method that has one"
        )

    def functions(self) -> dict[str, Function]:
        """query_states: float32[B, Q, D] of `queries`, float32[B, Q, D], that look at
        `image_states`, float32[B, S, D'], and where it reads texts joint_states: float32[B, Q + T,
        D] beside `text`, float32[B, T, D], all of which see each other.
        """
        net, shape = self.net, (2, self.net.width)
        states = Numbers((2, self.context_width), free=1)
        asked = {"queries": Numbers(shape, free=1), "image_states": states}

        def run(v: Vars, x: Inputs, mode: str, text: Array | None = None) -> Array:
            given = x.batch["queries"], text, None, x.batch["image_states"]
            return self.apply("qformer", v, x, *given, mode=mode)[0].astype(jnp.float32)

        found = {"query_states": Function(lambda v, x, _: run(v, x, "queries"), asked)}
        if net.has("states"):
            text = {"text": Numbers(shape, free=1)}
            found["joint_states"] = Function(
                lambda v, x, _: run(v, x, "bidirectional", x.batch["text"]), asked | text
            )
        return found

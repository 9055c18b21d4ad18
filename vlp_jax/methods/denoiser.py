"""A U-Net or a ControlNet alone, as it was released without an autoencoder and texts.

The file exists so that such a network converts, loads and runs like every model, and latent
diffusion takes it by `init_from`, or a ControlNet when a model is opened.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Numbers, Picture
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Range, Size
from vlp_jax.methods.base import Function, Method, Part
from vlp_jax.models import controlnet
from vlp_jax.models import unet as unets
from vlp_jax.models.towers import make_tower
from vlp_jax.models.unet import Condition, UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser(Method):
    """One part, `unet` or `control`, and nothing that trains it.

    Attributes:
      unet, control: the one network (models/unet.py, models/controlnet.py), with its name.
      context_width: columns of the states that it looks at; 0: none.
      context_length: how many there are; any number is taken.
      side: of the latents; any size on its grid is taken.
    """

    unet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    control: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context_width: Annotated[int, Range(0)] = 768
    context_length: Size = 77
    side: Size = 64

    def __post_init__(self) -> None:
        """Raises UserError unless there is one of unet and control."""
        if bool(self.unet) == bool(self.control):
            raise UserError("method: denoiser is one network, method.unet or method.control")

    @cached_property
    def part(self) -> str:
        """unet or control."""
        return "unet" if self.unet else "control"

    @cached_property
    def net(self) -> UNet:
        """The network."""
        return make_tower(getattr(self, self.part), f"method.{self.part}")

    @cached_property
    def _reads(self) -> tuple:
        kind = controlnet if self.part == "control" else unets
        return kind.reads(self.net, self.context_width)

    def fields(self) -> dict[str, Field]:
        """latent, time, and what the network is told: context, pooled, time_ids, labels; control,
        the picture of a ControlNet."""
        told = self._reads[2]
        found = {
            "latent": Numbers((self.side, self.side, self.net.in_channels), free=2),
            "time": Numbers(()),
        }
        for name, spec in told._asdict().items():
            if spec is not None:
                states = name == "context"
                shape = (self.context_length, self.context_width) if states else spec.shape[1:]
                found[name] = Numbers(shape, str(spec.dtype), free=int(states))
        if self.part == "control":
            found["control"] = Picture(self.side * self.net.factor, free=True)
        return found

    def parts(self) -> dict[str, Part]:
        """The network."""
        return {self.part: Part(self.net, self._reads)}

    def encode(self, v: Vars, x: Inputs) -> tuple[Any, Aux]:
        """Raises UserError: nothing here trains."""
        raise UserError(
            "method.name=denoiser: a network alone has no loss; name its folder in init_from of a"
            " method that has one"
        )

    def run(self, v: Vars, x: Inputs, _: None) -> Any:
        """The network on the fields."""
        told = Condition(
            **{n: x.batch[n] for n in Condition._fields if n in x.batch and n != "control"}
        )
        given = x.batch["latent"], x.batch["time"].astype(jnp.float32), told
        if self.part == "control":
            hint = x.batch["control"].astype(jnp.float32) / 255
            return self.apply("control", v, x, *given, hint)
        return self.apply("unet", v, x, *given)

    def functions(self) -> dict[str, Function]:
        """denoise: the raw output, float32[B, h, w, out]; of a ControlNet residuals: what it adds
        (models/unet.py Residuals)."""
        name = "denoise" if self.part == "unet" else "residuals"
        return {name: Function(self.run, self.fields())}

"""How a picture is drawn: sampler, steps, guidance, strength, thresholds.

The file exists as the one set of names that functions, commands and evaluators share.
"""

import dataclasses
from typing import Annotated, Literal

from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError
from vlp_jax.core.options import options
from vlp_jax.core.schema import Amount, Chance, Range
from vlp_jax.diffusion.samplers.base import Sampler
from vlp_jax.diffusion.spacing import Spacing
from vlp_jax.diffusion.thresholds import Threshold

FOLDER = "diffusion.samplers"


@options
class Drawing:
    """Floats are traced: one program per sampler, number of steps and size, guided or not.

    Attributes:
      sampler: a file of diffusion/samplers.
      steps: of the sampler; Heun calls the network twice in each but the last.
      spacing: which times; None is the sampler's own, and trailing under zero terminal SNR.
      karras: sigmas of arXiv:2206.00364, for samplers that walk on sigmas.
      guided: the network is asked with two conditions; else with one, and guidance says nothing.
      guidance: 1 is the condition alone. rescale: see diffusion/guidance.py.
      strength: share of the steps that are made, of a picture that is given.
      eta: new noise in DDIM. variance: DDPM's, where none is learned.
      threshold: of the predicted picture; for pixels. quantile, most: of the dynamic one; `most` is
        the static one's bound too. renoise: the noise is computed anew from the kept picture, as
        Imagen has it (DDIM's use_clipped_model_output in diffusers).
    """

    sampler: str = "ddim"
    steps: int = 50
    spacing: Spacing | None = None
    karras: bool = False
    guided: bool = True
    guidance: Annotated[float, Range()] = 7.5
    rescale: Chance = 0.0
    strength: Chance = 1.0
    eta: Chance = 0.0
    variance: Literal["small", "large"] = "small"
    threshold: Threshold = "none"
    quantile: Chance = 0.995
    most: Amount = 1.0
    renoise: bool = True

    def __post_init__(self) -> None:
        """Raises UserError for an unknown sampler or no steps."""
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: must be at least 1")
        sampler_class(self.sampler)

    def make(self) -> Sampler:
        """The sampler, with those of these options that it has."""
        kind = sampler_class(self.sampler)
        shared = {f.name for f in dataclasses.fields(kind)} & {"eta", "variance"}
        return kind(**{name: getattr(self, name) for name in shared})


def sampler_class(name: str) -> type[Sampler]:
    """Raises UserError for an unknown name."""
    return dispatch.find(FOLDER, name, Sampler, "sampler")

"""How a text is written: greedily, by drawing, or with beams.

The file exists as the one set of names that functions, commands and evaluators share; they are
those of transformers' GenerationConfig, lengths counting new tokens alone.
"""

from typing import Annotated

from vlp_jax.core.errors import UserError
from vlp_jax.core.options import options
from vlp_jax.core.schema import Range

Positive = Annotated[float, Range(1e-6)]


@options
class Writing:
    """Greedy where nothing is given.

    Attributes:
      max_new, min_new: tokens after the prompt, the stop id included; before min_new no stop id is
        taken.
      beams: of beam search; 1 writes one token after the other.
      temperature, top_p, top_k: any of them draws: logits divided by the temperature, of these the
        top_k largest (0: all), of these the fewest that hold top_p of the probability.
      repetition_penalty: divides positive scores of tokens that prompt or text hold already, and
        multiplies negative ones (arXiv:1909.05858).
      length_penalty: a text's score is the sum of its log-probabilities / tokens^this.
      early_stopping: beam search ends once there are enough texts, however good they are.
      returned: texts per row: of beams the best, best first; drawn ones as they come.
      stop: further ids that end a text.
    """

    max_new: int = 20
    min_new: int = 0
    beams: int = 1
    temperature: Positive | None = None
    top_p: Annotated[float, Range(1e-6, 1)] | None = None
    top_k: int = 0
    repetition_penalty: Positive | None = None
    length_penalty: Annotated[float, Range()] = 1.0
    early_stopping: bool = False
    returned: int = 1
    stop: tuple[int, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature is not None or self.top_p is not None or self.top_k > 0

    def __post_init__(self) -> None:
        """Raises UserError for numbers that do not go together."""
        for key in ("max_new", "beams", "returned"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 1")
        if not 0 <= self.min_new <= self.max_new:
            raise UserError(f"min_new={self.min_new}: must be from 0 to max_new={self.max_new}")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k}: must be at least 0; 0 takes all")
        if self.beams > 1 and self.draws:
            raise UserError(f"beams={self.beams}: draws nothing; remove temperature, top_p, top_k")
        if self.returned > self.beams and not self.draws:
            least = f"needs as many beams, or temperature; beams={self.beams}"
            raise UserError(f"returned={self.returned}: {least}")

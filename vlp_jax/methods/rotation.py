"""RotNet: which way up is the picture? (arXiv:1803.07728)

All turns of a picture stand in one batch: answering one random turn per picture trains clearly
worse. Right angles need no interpolation, which would give the answer away. The file exists to hold
the question.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.types import Array, Extra
from vlp_jax.methods.base import Part
from vlp_jax.methods.kits.pretext import Answers, LabelTask
from vlp_jax.models.head import Head

ANGLES = (0, 90, 180, 270)


def turn(images: Array, angles: tuple[int, ...]) -> Array:
    """Every picture at every angle, counter-clockwise. [B, S, S, C] -> [B, A, S, S, C]"""
    return jnp.stack([jnp.rot90(images, angle // 90, axes=(1, 2)) for angle in angles], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotation(LabelTask):
    """The trunk's pooled output through a linear layer names the turn.

    Attributes:
      angles: of 0, 90, 180, 270; two at least.
    """

    angles: tuple[int, ...] = ANGLES

    def __post_init__(self) -> None:
        if len(set(self.angles)) < 2 or not {*self.angles} <= {*ANGLES}:
            raise UserError(f"method.angles={self.angles}: needs two or more of {ANGLES}")

    def heads(self, out: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Part]:
        """head: a linear layer on the pooled output."""
        return {"head": Part(Head(len(self.angles)), (out["pooled"],))}

    def answers(self, v: Vars, x: Inputs, keys: Array) -> tuple[Answers, Extra]:
        """logits float32[B, A, A] and labels int32[B, A]; augmented first, then turned: a flip
        swaps 90 and 270.
        """
        del keys
        views = turn(self.prepare(x.batch["image"], x.keys), self.angles)
        pooled, moved = self.run_views(v, x, views)
        logits = self.apply("head", v, x, pooled)
        labels = jnp.broadcast_to(jnp.arange(len(self.angles)), logits.shape[:2])
        return {"logits": logits, "labels": labels}, moved

    def show(self, images: Array, rows: Answers) -> Array:
        """2A panels: the turned pictures, then each turned back by its answer."""
        turned = turn(images, self.angles)
        back = jnp.stack([jnp.rot90(turned, -angle // 90, axes=(2, 3)) for angle in self.angles], 2)
        guess = rows["logits"].argmax(-1)[..., None, None, None, None]
        back = jnp.take_along_axis(back, guess, axis=2)[:, :, 0]
        return jnp.concatenate([turned, back], axis=1)

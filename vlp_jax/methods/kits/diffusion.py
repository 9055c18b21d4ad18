"""What every diffusion method shares, in pixels, latents or embeddings: the noise that a batch is
given, what its network is taught and how errors weigh, and the options of drawing.

Sources are those of diffusion/; DreamBooth's prior, arXiv:2208.12242. The file exists so that a
method says only what its network is and what it looks at.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from vlp_jax.core import rng as rngs
from vlp_jax.core.fields import Field, Numbers
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.options import options
from vlp_jax.core.schema import Amount, Chance, Range, build
from vlp_jax.core.types import Array
from vlp_jax.diffusion import denoise, variance
from vlp_jax.diffusion.denoise import Level
from vlp_jax.diffusion.how import Drawing
from vlp_jax.diffusion.schedules import Schedule
from vlp_jax.methods.base import Method

SOURCES = ("instance", "prior")  # of DreamBooth's mixture, by their number


@options
class Painting(Drawing):
    """Attributes:
    height, width: pixels, 0: as in training; a picture that is given has its own.
    control_scale: of what ControlNets add. guess: they alone see the condition and weigh less
      where the picture is fine (guess mode, with or without a prompt).
    paste: under a mask, pixels that are kept are the picture's own to the last bit.
    The others: see diffusion/how.py.
    """

    height: Annotated[int, Range(0)] = 0
    width: Annotated[int, Range(0)] = 0
    control_scale: Amount = 1.0
    guess: bool = False
    paste: bool = True


class Noised(NamedTuple):
    """Rows of a batch at times of their own.

    x0, x: float32[B, ..., C], before and after. target: what the network shall give, of the same
    shape. time: int32[B]. at: the levels, float32[B, 1, ...].
    """

    x0: Array
    x: Array
    target: Array
    time: Array
    at: Level


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion(Method):
    """A method that learns to take noise away.

    Attributes:
      schedule: fields of diffusion/schedules.py Schedule; the prediction is among them.
      distance: l2, or l1 as LDM's inpainting, semantic and layout models have it.
      min_snr: gamma of the weights of arXiv:2303.09556; 0: all errors weigh the same.
      noise_offset: see diffusion/denoise.py offset_noise. perturbation: see `perturbed`.
      drop: share of the examples that are shown without their condition, for guidance.
      prior_weight: of the loss on pictures of a mixture's second source, those that keep what the
        class looks like, beside that on the first's (DreamBooth); each is the mean over its own
        examples. 0: sources are not told apart.
    """

    schedule: Annotated[Mapping[str, Any], Schedule] = dataclasses.field(default_factory=dict)
    distance: Literal["l2", "l1"] = "l2"
    min_snr: Amount = 0.0
    noise_offset: Amount = 0.0
    perturbation: Amount = 0.0
    drop: Chance = 0.1
    prior_weight: Amount = 0.0

    @cached_property
    def noise_schedule(self) -> Schedule:
        """The schedule."""
        return build(Schedule, self.schedule, "method.schedule")

    def source_fields(self) -> dict[str, Field]:
        """source int32[B], where sources are told apart: the number in `data.path` of the one that
        a row came from."""
        return {"source": Numbers((), "int32")} if self.prior_weight else {}

    def totals(self, x: Inputs) -> dict[str, Array]:
        """rows, and those of each source."""
        found = super().totals(x)
        if self.prior_weight:
            count = lambda n: (x.batch["source"] == n).sum().astype(jnp.float32)  # noqa: E731
            found |= {name: jnp.maximum(count(n), 1) for n, name in enumerate(SOURCES)}
        return found

    def noised(self, x: Inputs, x0: Array) -> Noised:
        """Rows at times drawn by their keys. x0: float32[B, ..., C]"""
        schedule = self.noise_schedule
        draw = lambda key: jax.random.randint(key, (), 0, schedule.times)  # noqa: E731
        time = jax.vmap(draw)(rngs.fold(x.rng, "time"))
        eps = denoise.noise(rngs.fold(x.rng, "noise"), x0.shape[1:])
        if self.noise_offset:
            eps = denoise.offset_noise(x.rng, eps, self.noise_offset)
        at = denoise.level(schedule, time, x0)
        shown = eps
        if self.perturbation:
            shown = denoise.perturbed(x.rng, eps, self.perturbation)
        target = denoise.target(schedule.prediction, x0, eps, at)
        return Noised(x0, denoise.noised(x0, shown, at), target, time, at)

    def dropped(self, x: Inputs) -> Array:
        """Which rows lose their condition, bool[B]; none outside training."""
        if not x.train:
            return jnp.zeros(len(x.index), bool)
        draw = lambda key: jax.random.bernoulli(key, self.drop)  # noqa: E731
        return jax.vmap(draw)(rngs.fold(x.rng, "drop"))

    def scored(self, out: Array, given: Noised) -> dict[str, Array]:
        """Rows of what a network gave for `given`: loss and error, its part without weights,
        float32[B]. A second half of the channels is a learned variance, which the bound teaches
        (times T / 1000)."""
        prediction, channels = self.noise_schedule.prediction, given.x.shape[-1]
        found, spread = out[..., :channels].astype(jnp.float32), out[..., channels:]
        apart = found - given.target
        apart = jnp.square(apart) if self.distance == "l2" else jnp.abs(apart)
        error = loss = apart.reshape(len(apart), -1).mean(1)
        if self.min_snr:
            weight = denoise.min_snr_weight(prediction, given.at, self.min_snr)
            loss = loss * weight.reshape(-1)
        if spread.shape[-1]:
            x0 = denoise.seen(prediction, found, given.x, given.at).x0
            bound = variance.bound(
                self.noise_schedule, given.time, given.x0, given.x, x0, spread.astype(jnp.float32)
            )
            loss = loss + bound * self.noise_schedule.times / 1000
        return {"loss": loss, "error": error}

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The mean loss, or that of each source; metrics: error, and the sources' losses."""
        del v
        metrics = {"error": x.share(rows["error"])}
        if not self.prior_weight:
            return x.share(rows["loss"]), Aux(metrics)
        for number, name in enumerate(SOURCES):
            metrics[name] = x.share(rows["loss"] * (x.batch["source"] == number), name)
        return metrics["instance"] + self.prior_weight * metrics["prior"], Aux(metrics)

"""Learning-rate schedules and durations in steps, examples or epochs; the step is the only clock.

The file exists so that one config can say "32 epochs" or "12.8e9 examples" and the run still counts
steps.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.types import Array

log = logging.getLogger(__name__)
Schedule = Callable[[Array], Array]


def duration(
    config: Mapping[str, Any], prefix: str, batch_size: int, num_examples: int, offset: int = 0
) -> int:
    """Steps from whichever of PREFIXsteps, PREFIXexamples, PREFIXepochs is set; the last non-zero
    one wins.

    Args:
      config: mapping with those keys; prefix is "" for the run or "warmup_" for the warm-up.
      batch_size, num_examples: examples per step and per epoch.
      offset: what `batch_size` x step lacks to the examples seen, after another batch size.
    """
    steps = int(config.get(f"{prefix}steps", 0))
    if config.get(f"{prefix}examples", 0):
        steps = math.ceil((config[f"{prefix}examples"] - offset) / batch_size)
    if config.get(f"{prefix}epochs", 0):
        steps = math.ceil((config[f"{prefix}epochs"] * num_examples - offset) / batch_size)
    return steps


def _cosine(t: Array) -> Array:
    return 0.5 * (1 + jnp.cos(jnp.pi * t))


SHAPES: dict[str, Callable[[Array], Array]] = {
    "cosine": _cosine,
    "linear": lambda t: 1 - t,
    "constant": jnp.ones_like,
    "rsqrt": lambda t: jnp.where(t < 1, 1 / jnp.sqrt(1 + 99 * t), 0.1),
}


def make_schedule(
    name: str,
    peak: float,
    total: int,
    warmup: int,
    final: float = 0.0,
    epoch: float = 0.0,
    decay: float = 0.9,
) -> Schedule:
    """Linear warm-up, peak (k + 1) / warmup at step k as in open_clip, then a shape from peak to
    `final` x peak.

    Args:
      name: cosine, linear, constant, rsqrt, or exponential: x decay after every epoch.
      peak: learning rate at the end of the warm-up.
      total, warmup: steps; warmup is counted inside total.
      final: floor as a share of the peak.
      epoch: steps of one, whole or not. Where it is not 0 the rate stays what it is at an epoch's
        start, and epochs count from the run's start, warm-up and all (ALBEF, BLIP).
      decay: of `exponential`.

    Raises:
      UserError: unknown name, or exponential without epochs. A warm-up longer than the run is cut
        to a tenth of it, with a warning.
    """
    names = (*SHAPES, "exponential")
    if name not in names:
        raise UserError(f"optim.schedule: unknown {name!r}{nearest(name, names)}")
    if name == "exponential" and not epoch:
        raise UserError("optim.schedule=exponential: falls by epochs; set optim.lr_by_epoch=True")
    if warmup >= total > 0:
        log.warning("optim.warmup: %d steps do not fit in %d, cut to a tenth", warmup, total)
        warmup = total // 10

    def schedule(step: Array) -> Array:
        progress = (step - warmup) / max(1, total - warmup)
        if epoch:
            begun = jnp.floor(step / epoch + 1e-6)  # 30 steps of 10.0 are 3, whatever the rounding
            progress = begun * epoch / max(1, total)
        if name == "exponential":
            decayed = jnp.maximum(final, decay**begun)
        else:
            decayed = final + (1 - final) * SHAPES[name](jnp.clip(progress, 0.0, 1.0))
        return peak * jnp.where(step < warmup, (step + 1) / max(1, warmup), decayed)

    return schedule

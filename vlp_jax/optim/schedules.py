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


def make_schedule(name: str, peak: float, total: int, warmup: int, final: float = 0.0) -> Schedule:
    """Linear warm-up, peak (k + 1) / warmup at step k as in open_clip, then a shape from peak to
    `final` x peak.

    Args:
      name: cosine, linear, constant or rsqrt.
      peak: learning rate at the end of the warm-up.
      total, warmup: steps; warmup is counted inside total.
      final: floor as a share of the peak.

    Raises:
      UserError: unknown name. A warm-up longer than the run is cut to a tenth of it, with a
        warning.
    """
    if name not in SHAPES:
        raise UserError(f"optim.schedule: unknown {name!r}{nearest(name, SHAPES)}")
    if warmup >= total > 0:
        log.warning("optim.warmup: %d steps do not fit in %d, cut to a tenth", warmup, total)
        warmup = total // 10
    shape = SHAPES[name]

    def schedule(step: Array) -> Array:
        progress = jnp.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0)
        decayed = final + (1 - final) * shape(progress)
        return peak * jnp.where(step < warmup, (step + 1) / max(1, warmup), decayed)

    return schedule

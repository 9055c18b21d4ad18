"""Where a run's first weights come from: its newest checkpoint, other weights (`init_from`), or
fresh.

The file exists so that resuming and fine-tuning are decided in one place, before anything is
compiled.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vlp_jax.api.cache import check_weights
from vlp_jax.api.init_from import Weights
from vlp_jax.core.errors import UserError
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.state import Start
from vlp_jax.train.trainer import Trainer, learning_rate
from vlp_jax.train.workdir import read_config, stretches

log = logging.getLogger(__name__)


def begin(
    trainer: Trainer, checkpoints: Checkpoints, step: int | None
) -> tuple[Start, dict[str, Any]]:
    """What a run goes on from: the complete checkpoint of `step`, or, for None, new weights, among
    them those of `init_from`; nothing is written.

    Returns:
      (state and frozen weights, what became of the leaves of `init_from`: see Weights.record).

    Raises:
      UserError: see Checkpoints.restore, Weights, Trainer.check_given and check_weights.
    """
    start, told = _begin(trainer, checkpoints, step)
    check_weights(trainer, start)
    return start, told


def _begin(
    trainer: Trainer, checkpoints: Checkpoints, step: int | None
) -> tuple[Start, dict[str, Any]]:
    if step is not None:
        state = checkpoints.restore(trainer.abstract.state, step)
        return Start(state, checkpoints.restore_frozen(trainer.abstract.frozen, step)), {}
    if not trainer.config.init_from:
        return trainer.first(), {}
    given = Weights(trainer)
    given.show()
    return trainer.first(given.weights), given.record()


def tell_changes(trainer: Trainer, workdir: Path, checkpoints: Checkpoints, step: int) -> None:
    """Says what a resume at `step` changes without being asked: an end that lies before it, later
    checkpoints that a run going back gives up, the data position after another batch size, a
    learning rate that jumps.
    """
    if step > trainer.steps:
        words = "the checkpoint of step %d lies past the end, steps=%d: nothing is left to train%s"
        past = [saved for saved in checkpoints.steps() if saved <= trainer.steps]
        log.warning(words, step, trainer.steps, f"; --step={past[-1]} goes back" if past else "")
    later = [str(saved) for saved in checkpoints.steps() if saved > step]
    if later:
        log.warning(
            "going back to step %d: the first save gives up step%s %s and all logged after %d; "
            "until then a start without --step goes on from step %s",
            *(step, "s" * (len(later) > 1), ", ".join(later), step, later[-1]),
        )
    if not step or not (workdir / "config.json").is_file():
        return
    old = ConfigDict(read_config(workdir))
    if old.batch_size != trainer.config.batch_size:
        batches = f"batch_size {old.batch_size} -> {trainer.config.batch_size} at step {step}"
        seen = trainer.pipeline.seen(step)
        log.warning("%s: the data goes on after the %d examples seen", batches, seen)
    offset = stretches(workdir, step, old.batch_size)[-1].offset
    with contextlib.suppress(KeyError, AttributeError, TypeError, UserError):  # an older version's
        count = trainer.pipeline.num_examples
        before = float(learning_rate(old, count, offset)(step))
        after = float(learning_rate(trainer.config, count, trainer.offset)(step))
        if abs(after - before) > 1e-3 * max(before, after):
            log.warning("the learning rate jumps at step %d: %.3g -> %.3g", step, before, after)

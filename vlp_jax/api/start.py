"""Where a run's first weights come from: its newest checkpoint, other weights (`init_from`), or
fresh.

The file exists so that resuming and fine-tuning are decided in one place, before anything is
compiled.
"""

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, map_with_path, matches, merge
from vlp_jax.interop.folder import is_folder
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.progress import show
from vlp_jax.train.state import State
from vlp_jax.train.trainer import Trainer, learning_rate
from vlp_jax.train.workdir import read_config, stretches

log = logging.getLogger(__name__)


def start_state(
    trainer: Trainer,
    checkpoints: Checkpoints,
    step: int | None,
    weights: dict[str, jax.Array] | None,
) -> State:
    """Restored from `step` or the newest complete checkpoint, else initialised (with `weights`)."""
    if step is not None or checkpoints.steps():
        return checkpoints.restore(trainer.abstract_state, step)
    state = trainer.fresh_state()
    return replace_weights(trainer, state, weights) if weights else state


def tell_changes(trainer: Trainer, workdir: Path, checkpoints: Checkpoints, step: int) -> None:
    """Says what a resume at `step` changes without being asked: later checkpoints that a run going
    back gives up, the data position after another batch size, a learning rate that jumps.
    """
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
        before = float(learning_rate(old, trainer.pipeline.num_examples, offset)(step))
        after = float(trainer.schedule(step))
        if abs(after - before) > 1e-3 * max(before, after):
            log.warning("the learning rate jumps at step %d: %.3g -> %.3g", step, before, after)


def first_weights(trainer: Trainer, checkpoints: Checkpoints) -> dict[str, jax.Array] | None:
    """The weights of `init_from` for a run that has no checkpoint yet; nothing is written.

    Raises:
      UserError: see `loaded_weights`.
    """
    if not trainer.config.init_from or checkpoints.steps():
        return None
    return loaded_weights(trainer.config.init_from, trainer)


def loaded_weights(init_from: str, trainer: Trainer) -> dict[str, jax.Array]:
    """Flat {path: array} of `FOLDER` or `FOLDER:REGEX` (only the paths that match, e.g.
    OUT:image/.*), checked.

    Raises:
      UserError: a path the run's model lacks or holds in another shape, or, without a regex, one
        that is missing.
    """
    from vlp_jax.api.model import load_model

    folder, _, pattern = (init_from, "", "")
    if not os.path.isdir(init_from) and ":" in init_from:
        folder, _, pattern = init_from.partition(":")
    model = load_model(folder)
    loaded = flatten({**model.params, **model.extra})
    loaded = {
        path: leaf for path, leaf in loaded.items() if not pattern or matches(path, (pattern,))
    }
    state = trainer.abstract_state
    ours = flatten({**merge(state["params"], state["frozen"]), **state["extra"]})
    lines = [f"unexpected {path}" for path in loaded if path not in ours]
    lines += [
        f"{path} is {list(leaf.shape)}, needs {list(ours[path].shape)}"
        for path, leaf in loaded.items()
        if path in ours and leaf.shape != ours[path].shape
    ]
    lines += [f"missing {path}" for path in ours if not pattern and path not in loaded]
    if lines or not loaded:
        raise UserError(
            f"init_from={init_from}: does not fit: {'; '.join(lines) or 'no path matches'}"
        )
    if is_folder(folder):
        tell_apart(init_from, model.preprocessing, trainer)
    return loaded


def tell_apart(init_from: str, theirs: Mapping[str, Any], trainer: Trainer) -> None:
    """Says where a run, which follows its recipe, prepares pictures otherwise than the source of
    its weights."""
    method = trainer.method
    ours = {**vars(trainer.context.framing), "mean": method.image_mean, "std": method.image_std}
    keys = ["mean", "std", "crop", "share", "resample", "alpha"]
    keys += ["fill"] if theirs["crop"] == "pad" else []
    for key in keys:
        mine, its = ours[key], theirs[key]
        if mine != its if isinstance(mine, str) else not np.allclose(mine, its, atol=1e-6):
            what = f"its pictures were made with {key}={its}, this run makes them with {mine}"
            show(f"note: init_from={init_from}: {what}", last=True)


def replace_weights(trainer: Trainer, state: State, loaded: dict[str, jax.Array]) -> State:
    """Puts loaded leaves in the place of the first ones, under the shardings that are there; state
    that copies weights (a teacher) is made anew, unless it was loaded too.
    """

    def replace(path: str, leaf: jax.Array) -> jax.Array:
        return jax.device_put(loaded[path], leaf.sharding) if path in loaded else leaf

    parts = {name: map_with_path(replace, state[name]) for name in ("params", "frozen", "extra")}
    state = trainer.restate({**state, **parts})
    return {**state, "extra": map_with_path(replace, state["extra"])}

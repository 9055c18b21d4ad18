"""Runs steps of a finished or running run again, from its folder alone.

The file exists to turn a workdir into a Trainer, a state and a verdict.
"""

from pathlib import Path
from typing import Any


def replay_run(workdir: str, step: int, steps: int = 1) -> dict[str, Any]:
    """Repeats `steps` steps from `step` on and compares them with what the run logged and saved.

    Returns:
      {workdir, same: whether something was compared and every bit is equal, start, last, compared
      and checkpoints: steps, different: texts}.

    Raises:
      UserError: the folder holds no run, the data changed, or the step was never run.
    """
    from ml_collections import ConfigDict

    from vlp_jax.api.start import begin
    from vlp_jax.core.errors import UserError
    from vlp_jax.parallel.startup import start_jax
    from vlp_jax.train.checkpoint import Checkpoints
    from vlp_jax.train.metrics import read_lines
    from vlp_jax.train.replay import first_step, replay
    from vlp_jax.train.trainer import Trainer
    from vlp_jax.train.workdir import check_workdir, read_config, stretches

    folder, last = Path(workdir), step + steps - 1
    config = ConfigDict(read_config(folder))
    lines = {line["step"]: line for line in read_lines(folder / "metrics.jsonl") if "lr" in line}
    if steps < 1 or not step <= last <= max(lines, default=0):
        asked = f"--step={step}" + f" --steps={steps}" * (steps != 1)
        raise UserError(f"{asked}: the run has logged steps up to {max(lines, default=0)}")
    start_jax(config.get("heartbeat_seconds", 60.0))
    checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)
    start = first_step(checkpoints, step)
    offset = stretches(folder, start or 0, config.batch_size)[-1].offset
    trainer = Trainer(config, offset=offset)
    check_workdir(folder, config, trainer.pipeline.fingerprint, force=False)
    found = replay(trainer, checkpoints, begin(trainer, checkpoints, start)[0], lines, last)
    compared = bool(found.compared or found.checkpoints)
    return {
        "workdir": workdir,
        "same": compared and not found.different,
        "start": found.start,
        "last": last,
        "compared": found.compared,
        "checkpoints": found.checkpoints,
        "different": found.different,
    }

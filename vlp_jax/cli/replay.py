"""`replay --workdir=W --step=N [--steps=K]`: runs steps of a finished or running run again.

From the newest complete checkpoint before N (keep_checkpoints, keep_every), or from fresh weights,
to step N + K - 1; loss and gradient norm are compared with metrics.jsonl, and every leaf with the
checkpoints on the way. Nothing is written. The file exists to turn flags into a Trainer and a
verdict.
"""

import argparse
from pathlib import Path

NOTE = (
    " (bits are promised on the run's own device count, mesh and jaxlib, and with the config that "
    "the step ran with, which --force may have changed since)"
)
NOTHING = "nothing was compared: take a logged step, or more --steps"
EXAMPLE = "example: python -m vlp_jax replay --workdir=runs/mine --step=1200 --json"


def parser() -> argparse.ArgumentParser:
    """The flags of `replay`."""
    from vlp_jax.cli.output import add_json, folder_or_file

    p = argparse.ArgumentParser(
        "vlp_jax replay",
        description=__doc__,
        epilog=EXAMPLE + "\nexit codes: 0 every bit the same, 1 different or nothing compared",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--workdir", type=folder_or_file, required=True, help="folder of the run")
    p.add_argument("--step", type=int, required=True, help="the step to run again")
    p.add_argument("--steps", type=int, default=1, help="how many from there on (default 1)")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command.

    Raises:
      UserError: the folder holds no run, the data changed, or the step was never run.
    """
    args = parser().parse_args(argv)
    from ml_collections import ConfigDict

    from vlp_jax.api.start import begin
    from vlp_jax.cli.output import print_json
    from vlp_jax.core.errors import UserError
    from vlp_jax.parallel.startup import first_process, start_jax
    from vlp_jax.train.checkpoint import Checkpoints
    from vlp_jax.train.metrics import read_lines
    from vlp_jax.train.replay import first_step, replay
    from vlp_jax.train.trainer import Trainer
    from vlp_jax.train.workdir import check_workdir, read_config, stretches

    workdir, last = Path(args.workdir), args.step + args.steps - 1
    config = ConfigDict(read_config(workdir))
    lines = {line["step"]: line for line in read_lines(workdir / "metrics.jsonl") if "lr" in line}
    if args.steps < 1 or not args.step <= last <= max(lines, default=0):
        asked = f"--step={args.step}" + f" --steps={args.steps}" * (args.steps != 1)
        raise UserError(f"{asked}: the run has logged steps up to {max(lines, default=0)}")
    start_jax(config.get("heartbeat_seconds", 60.0))
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints)
    start = first_step(checkpoints, args.step)
    offset = stretches(workdir, start or 0, config.batch_size)[-1].offset
    trainer = Trainer(config, offset=offset)
    check_workdir(workdir, config, trainer.pipeline.fingerprint, force=False)
    found = replay(trainer, checkpoints, begin(trainer, checkpoints, start)[0], lines, last)
    compared = bool(found.compared or found.checkpoints)
    if first_process():
        for text in found.different:
            print(f"different: {text}")
        span = f"steps {found.start + 1} to {last}: {len(found.compared)} log lines and "
        print(f"{span}{len(found.checkpoints)} checkpoints compared")
        same = "ok, every bit the same" if compared else NOTHING
        print("different" + NOTE if found.different else same)
    if args.json:
        print_json(
            {
                "workdir": args.workdir,
                "same": compared and not found.different,
                "start": found.start,
                "last": last,
                "compared": found.compared,
                "checkpoints": found.checkpoints,
                "different": found.different,
            }
        )
    return int(bool(found.different) or not compared)

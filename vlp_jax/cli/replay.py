"""`replay --workdir=W --step=N [--steps=K]`: runs steps of a finished or running run again.

From the newest complete checkpoint before N (keep_checkpoints, keep_every), or from fresh weights,
to step N + K - 1; loss and gradient norm are compared with metrics.jsonl, and every leaf with the
checkpoints on the way. Nothing is written. The file exists to print the verdict of api/replay.py.
"""

import argparse

NOTE = (
    " (bits are promised on the run's own device count, mesh and jaxlib, and with the config that "
    "the step ran with, which --force may have changed since)"
)
NOTHING = "nothing was compared: take a logged step, or more --steps"
EXAMPLE = "example: python -m vlp_jax replay --workdir=runs/mine --step=1200 --json"


def parser() -> argparse.ArgumentParser:
    """The flags of `replay`."""
    from vlp_jax.cli.output import add_json, folder_or_file, purpose

    p = argparse.ArgumentParser(
        "python -m vlp_jax replay",
        description=purpose(__doc__),
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
    """Runs the command. Raises UserError as api/replay.py."""
    args = parser().parse_args(argv)
    from vlp_jax.api.replay import replay_run
    from vlp_jax.cli.output import print_json, told

    found = replay_run(args.workdir, args.step, args.steps)
    for text in found["different"]:
        told(f"different: {text}")
    span = f"steps {found['start'] + 1} to {found['last']}: {len(found['compared'])} log lines and "
    told(f"{span}{len(found['checkpoints'])} checkpoints compared")
    same = "ok, every bit the same" if found["same"] else NOTHING
    told("different" + NOTE if found["different"] else same)
    if args.json:
        print_json(found)
    return int(not found["same"])

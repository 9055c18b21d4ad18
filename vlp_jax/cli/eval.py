"""`eval`: a training workdir or a converted checkpoint on the evaluators of a config.

The same compiled, sharded functions as during training. The file exists so that a released model
and one's own are measured by one command.
"""

import argparse
from pathlib import Path

EPILOG = """examples:
  python -m vlp_jax eval --checkpoint=runs/mine --config=configs/clip/folder.py --json
  python -m vlp_jax eval --checkpoint=OUT --config=configs/clip/openai.py
  --config.evals.imagenet.path=DIR --out=report
  python -m vlp_jax eval --config.evals.generation.samples=DRAWN
  --config.evals.generation.path=REAL --config.evals.generation.networks=INCEPTION
only the config's `evals`, `eval_batch_size` and `mesh` are used; without --config a workdir's own
are, and evaluators on the training data find a workdir's data by themselves."""


def parser() -> argparse.ArgumentParser:
    """The flags of `eval`."""
    from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, purpose

    p = argparse.ArgumentParser(
        "python -m vlp_jax eval",
        description=purpose(__doc__),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--checkpoint",
        type=folder_or_file,
        default="",
        metavar="DIR",
        help="a converted checkpoint, a training workdir, or fresh:WORKDIR: its untrained model; "
        "without it evaluators that need no model",
    )
    p.add_argument("--config", metavar="FILE.py[:ARGS]", help="config whose `evals` are run")
    p.add_argument("--only", default="", help="comma-separated names of evaluators to run")
    p.add_argument(
        "--out",
        type=folder_or_file,
        metavar="DIR",
        help="write report.json, report.md and pictures here",
    )
    add_sharding(p)
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command.

    Raises:
      UserError: a mistake in the config, the checkpoint or the data, before anything is compiled.
    """
    from vlp_jax.api.config import split_overrides
    from vlp_jax.api.evaluate import eval_config, evaluate, write_report

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    config = eval_config(args.checkpoint, args.config, overrides, args.only)
    from vlp_jax.api.files import check_writable
    from vlp_jax.cli.output import print_json
    from vlp_jax.parallel.startup import first_process, start_jax
    from vlp_jax.report.results import print_results, to_json

    if args.out:
        check_writable("--out", args.out)
    start_jax()
    results, scale = evaluate(args.checkpoint, config, args.sharding)
    if first_process():
        print_results(results)
    if args.out and first_process():
        write_report(results, Path(args.out), args.checkpoint or "evaluation", scale)
    if args.json:
        print_json({"checkpoint": args.checkpoint, "eval": to_json(results)})
    return 0

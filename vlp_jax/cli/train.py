"""`train`: trains a run from a config, or resumes it; the same command line does both.

The file exists to turn flags into one call of api/train.py and print what comes of it.
"""

import argparse
from pathlib import Path

EPILOG = """examples:
  python -m vlp_jax train --config=configs/clip/folder.py --config.data.path=DIR --workdir=runs/mine
  python -m vlp_jax train --config=configs/clip/openai.py:ViT-B-32
  --config.data.path='shards/{0000..0099}.tar' --workdir=W
any config key: --config.KEY=VALUE, e.g. --config.steps=1000 --config.optim.lr=1e-3
  --config.mesh.fsdp=4
one of several processes: --coordinator=HOST:PORT --num-processes=N --process-id=I"""


def parser() -> argparse.ArgumentParser:
    """The flags of `train`."""
    from vlp_jax.cli.output import add_json, folder_or_file, purpose

    p = argparse.ArgumentParser(
        "python -m vlp_jax train",
        description=purpose(__doc__),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--config", required=True, metavar="FILE.py[:ARGS]", help="config file, see configs/"
    )
    p.add_argument(
        "--workdir",
        type=folder_or_file,
        required=True,
        help="folder of the run: checkpoints, metrics, config",
    )
    p.add_argument(
        "--force", action="store_true", help="go on although the workdir's config differs"
    )
    p.add_argument("--step", type=int, help="resume from this checkpoint instead of the newest")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command."""
    from vlp_jax.api.config import load_config, split_overrides
    from vlp_jax.api.train import check_folder, train

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    check_folder(args.workdir)
    config = load_config(args.config, overrides)
    from vlp_jax.cli.output import print_json
    from vlp_jax.parallel.startup import first_process, start_jax

    start_jax(config.heartbeat_seconds)
    outcome = train(config, Path(args.workdir), force=args.force, step=args.step)
    if outcome.results and first_process():
        from vlp_jax.api.evaluate import write_report
        from vlp_jax.report.results import print_results

        print_results(outcome.results)
        where = Path(args.workdir) / "report"
        write_report(
            outcome.results,
            where,
            args.workdir,
            outcome.scale,
            str(Path(args.workdir) / "metrics.jsonl"),
        )
        print(f"report.md and pictures in {where}")
    if args.json:
        print_json(outcome.summary())
    return 0

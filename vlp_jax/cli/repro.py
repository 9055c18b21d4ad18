"""`repro STUDY`: trains the cells of a paper's table, evaluates them, and prints paper, ours and
whether each trend holds.

Every cell is an ordinary run in its own workdir, so that an interrupted study goes on where it
stopped. The file exists to turn flags into the runs of api/repro.py and print their table.
"""

import argparse
import os
from pathlib import Path

EPILOG = """examples:
  python -m vlp_jax repro mae_mask_ratio --out=runs/mae_mask_ratio
  python -m vlp_jax repro mae_mask_ratio --only=0.1,0.75 --seeds=3 --config.steps=300
without STUDY: the list of studies. Without --data the small form runs on the embedded emoji.
exit codes: 0 every trend whose cells ran holds, 1 one does not (the table is written)"""


def parser() -> argparse.ArgumentParser:
    """The flags of `repro`."""
    from vlp_jax.cli.output import add_json

    p = argparse.ArgumentParser(
        "vlp_jax repro",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "study", nargs="?", metavar="STUDY", help="its name in experiments/, or a folder"
    )
    p.add_argument("--full", action="store_true", help="the published sizes and lengths")
    p.add_argument("--only", default="", metavar="CELLS", help="comma-separated names of cells")
    p.add_argument("--seeds", type=int, default=1, help="runs of every cell (default 1)")
    p.add_argument("--out", metavar="DIR", help="default runs/STUDY, with --full runs/STUDY_full")
    p.add_argument(
        "--data",
        default=os.environ.get("VLP_JAX_FASHION_MNIST", ""),
        metavar="DIR",
        help="Fashion-MNIST of `data prepare fashion_mnist` for the small form "
        "(or variable VLP_JAX_FASHION_MNIST)",
    )
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command.

    Raises:
      UserError: a mistake in the flags or in any cell's config, before anything is trained.
    """
    from vlp_jax.api.config import split_overrides
    from vlp_jax.api.repro import check_configs, chosen, run_cells, summary
    from vlp_jax.api.study import data_set, load_study

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    if not args.study:
        return list_studies(args)
    study = load_study(args.study, args.full, data_set(args.data))
    names = chosen(args.only, list(study.cells))
    if args.seeds < 1:
        from vlp_jax.core.errors import UserError

        raise UserError(f"--seeds={args.seeds}: must be at least 1")
    folder = f"runs/{Path(args.study).name}" + "_full" * args.full
    out = Path(args.out or folder)
    from vlp_jax.cli.output import print_json
    from vlp_jax.parallel.startup import first_process, start_jax

    start_jax()
    runs = check_configs(study, names, args.seeds, overrides)
    outcome = summary(study, run_cells(study, runs, out), names)
    outcome = {"data": args.data or "the embedded emoji", "changes": overrides, **outcome}
    outcome = {"study": args.study, "full": args.full, **outcome}
    if first_process():
        from vlp_jax.report.study import write_study

        write_study(study.title, outcome, str(out))
    if args.json:
        print_json(outcome)
    return int(False in outcome["trends"].values())


def list_studies(args: argparse.Namespace) -> int:
    """Prints a line for each study: name, minutes of the small form (with --full the number of its
    runs), title. Returns 0.
    """
    from vlp_jax.api.study import DataSet, load_study, studies
    from vlp_jax.cli.output import print_json

    found = []
    for name in studies():
        study = load_study(name, args.full, DataSet())
        row = {"study": name, "title": study.title, "cells": len(study.cells)}
        found.append(row | {"minutes": study.minutes or None})
    for row in found:
        cost = f"{row['minutes']} min" if row["minutes"] else f"{row['cells']} runs"
        print(f"{row['study']:<{max(map(len, studies()))}}  {cost:>7}  {row['title']}")
    if args.json:
        print_json({"full": args.full, "studies": found})
    return 0

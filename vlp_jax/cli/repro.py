"""`repro STUDY`: trains the cells of a paper's table, evaluates them, and prints paper, ours and
whether each trend holds.

Every cell is an ordinary run in its own workdir, so that an interrupted study goes on where it
stopped. The file exists to turn flags into one call of api/repro.py.
"""

import argparse
import os
from typing import Any

EPILOG = """examples:
  python -m vlp_jax repro mae_mask_ratio --out=runs/mae_mask_ratio
  python -m vlp_jax repro mae_mask_ratio --list
  python -m vlp_jax repro mae_mask_ratio --only=0.1,0.75 --seeds=3 --config.steps=300
without STUDY: the list of studies; with --list: the study's cells, by the names of --only.
Without --data the small form runs on the embedded emoji.
exit codes: 0 every trend whose cells ran holds, 1 one does not (the table is written)"""


def parser() -> argparse.ArgumentParser:
    """The flags of `repro`."""
    from vlp_jax.cli.output import add_json, purpose

    p = argparse.ArgumentParser(
        "python -m vlp_jax repro",
        description=purpose(__doc__),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "study", nargs="?", metavar="STUDY", help="its name in experiments/, or a folder"
    )
    p.add_argument("--list", action="store_true", help="say what its cells are, and run nothing")
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
    """Runs the command. Raises UserError as api/repro.py."""
    from vlp_jax.api.config import split_overrides
    from vlp_jax.api.repro import Request, list_cells, list_studies, reproduce
    from vlp_jax.cli.output import print_json

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    asked = (args.study, args.full, args.only, args.seeds, args.out or "", args.data)
    if args.study and args.list:
        outcome = list_cells(Request(*asked))
        print_cells(outcome)
    elif args.study:
        outcome = reproduce(Request(*asked, overrides))
    else:
        outcome = {"full": args.full, "studies": list_studies(args.full)}
        print_studies(outcome["studies"])
    if args.json:
        print_json(outcome)
    return int(False in outcome.get("trends", {}).values())


def print_cells(study: dict[str, Any]) -> None:
    """The title and a line for each cell: its name, the paper's numbers, where it starts."""
    print(study["title"])
    width = max(len(row["cell"]) for row in study["cells"])
    for row in study["cells"]:
        paper = ", ".join(f"{column} {number:g}" for column, number in row["paper"].items())
        said = f"paper: {paper}" if paper else "made for the others" * row["aside"]
        begins = f"starts from {row['from']!r}" * bool(row["from"])
        line = f"  {row['cell']:<{width}}  {'; '.join(filter(None, (said, begins)))}"
        print(line.rstrip())


def print_studies(rows: list[dict[str, Any]]) -> None:
    """A line for each study: name, minutes of the small form (with --full the number of its runs),
    title.
    """
    width = max(len(row["study"]) for row in rows)
    for row in rows:
        cost = f"{row['minutes']} min" if row["minutes"] else f"{row['cells']} runs"
        print(f"{row['study']:<{width}}  {cost:>7}  {row['title']}")

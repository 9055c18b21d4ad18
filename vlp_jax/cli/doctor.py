"""`doctor`: versions, devices, disk speed and whether the data can be seen; the first thing to run
on a new machine.

The file exists as the command's parser.
"""

import argparse


def parser() -> argparse.ArgumentParser:
    """The flags of `doctor`."""
    from vlp_jax.cli.output import add_json, purpose

    p = argparse.ArgumentParser("python -m vlp_jax doctor", description=purpose(__doc__))
    p.add_argument("--data", metavar="PATH", help="a data set that must be readable from here")
    p.add_argument(
        "--workdir", default=".", metavar="DIR", help="where runs will be written (default: here)"
    )
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command. Raises UserError as api/doctor.py."""
    args = parser().parse_args(argv)
    from vlp_jax.api.doctor import doctor
    from vlp_jax.cli.output import print_json
    from vlp_jax.parallel.startup import first_process
    from vlp_jax.report.console import print_facts

    report = doctor(args.workdir, args.data or "")
    if first_process():
        print_facts("python -m vlp_jax doctor", report)
    if args.json:
        print_json(report)
    return 0

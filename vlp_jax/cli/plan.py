"""`plan`: compiles the training step for a pod on this host and tells whether it fits.

A program that does not fit is an answer (`fits: false`), not a failure. The file exists to turn
flags into a compiled step and print what the compiler said.
"""

import argparse

EPILOG = """examples:
  python -m vlp_jax plan --config=configs/clip/openai.py:ViT-B-16 --topology=v5e:16x16
  python -m vlp_jax plan --config=configs/clip/folder.py --topology=cpu:8 --json
  python -m vlp_jax plan --config=configs/clip/openai.py:ViT-L-14 --topology=v5p:4x4x4 --search
any config key: --config.KEY=VALUE, e.g. --config.batch_size=65536 --config.method.remat=full"""


def parser() -> argparse.ArgumentParser:
    """The flags of `plan`."""
    from vlp_jax.cli.output import add_json, purpose

    p = argparse.ArgumentParser(
        "python -m vlp_jax plan",
        description=purpose(__doc__),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--config", required=True, metavar="FILE.py[:ARGS]", help="a training config")
    p.add_argument("--topology", required=True, help="v5e:16x16, v4:4x4x8, cpu:8, gpu, ...")
    p.add_argument(
        "--search",
        action="store_true",
        help="try remat policies, sharding and accumulation; the fastest that fits",
    )
    p.add_argument("--cached", action="store_true", help="train on a cache (`data cache`)")
    p.add_argument("--examples", type=int, default=400_000_000, help="size of the training set")
    p.add_argument("--hlo", metavar="FILE", help="write the compiled program's text there")
    p.add_argument(
        "--no-code",
        action="store_true",
        help="stop before machine code, which takes hours for convolutions: all but its bytes",
    )
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command."""
    from vlp_jax.api.config import split_overrides

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    from vlp_jax.api.plan import plan
    from vlp_jax.cli.output import print_json
    from vlp_jax.report.plan import print_plan

    how = dict(examples=args.examples, search=args.search, cached=args.cached, hlo=args.hlo or "")
    how["code"] = not args.no_code
    found = plan((args.config, overrides), args.topology, **how)
    print_plan(found)
    if args.json:
        print_json(found)
    return 0

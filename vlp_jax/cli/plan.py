"""`plan`: compiles the training step for a pod on this host and tells whether it fits.

A program that does not fit is an answer (`fits: false`), not a failure. The file exists to turn
flags into a compiled step and print what the compiler said.
"""

import argparse
import sys
from typing import Any

EPILOG = """examples:
  python -m vlp_jax plan --config=configs/clip/openai.py:ViT-B-16 --topology=v5e:16x16
  python -m vlp_jax plan --config=configs/clip/folder.py --topology=cpu:8 --json
  python -m vlp_jax plan --config=configs/clip/openai.py:ViT-L-14 --topology=v5p:4x4x4 --search
any config key: --config.KEY=VALUE, e.g. --config.batch_size=65536 --config.method.remat=full"""


def parser() -> argparse.ArgumentParser:
    """The flags of `plan`."""
    from vlp_jax.cli.output import add_json

    p = argparse.ArgumentParser(
        "vlp_jax plan",
        description=__doc__,
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
    p.add_argument("--examples", type=int, default=400_000_000, help="size of the training set")
    p.add_argument("--hlo", metavar="FILE", help="write the compiled program's text there")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command."""
    from vlp_jax.api.config import load_config, split_overrides
    from vlp_jax.plan.topology import check_topology, open_topology, prepare

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    check_topology(args.topology)
    config = load_config(args.config, overrides)
    prepare(args.topology)
    from vlp_jax.cli.output import print_json
    from vlp_jax.parallel.startup import start_jax
    from vlp_jax.plan.program import check_host_memory

    check_host_memory()
    start_jax()
    devices = open_topology(args.topology)
    found = plan(config, devices, args)
    print_plan(found)
    if args.json:
        print_json(found)
    return 0


def plan(config: Any, devices: Any, args: argparse.Namespace) -> dict[str, Any]:
    """One plan, or the best of a search with its attempts under `tried`."""
    from vlp_jax.plan.program import PlannedTrainer, compile_step
    from vlp_jax.plan.report import report
    from vlp_jax.plan.search import search
    from vlp_jax.plan.topology import chip

    def one(config: Any) -> dict[str, Any]:
        trainer = PlannedTrainer(config, devices, args.examples)
        compiled = compile_step(trainer)
        if args.hlo:
            with open(args.hlo, "w") as file:
                file.write(compiled.text)
        return report(trainer, compiled, args.topology, chip(args.topology))

    if not args.search:
        return one(config)
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    found, tried = search(config, devices, one, tell)
    return {**found, "tried": tried}


def print_plan(found: dict[str, Any]) -> None:
    """The plan as tables for people."""
    from rich.console import Console
    from rich.table import Table

    console, gib = Console(), 2**30
    verdict = "fits" if found["fits"] else "does NOT fit"
    needed, limit = found["hbm_bytes"] / gib, found["hbm_limit_bytes"] / gib
    console.print(
        f"{found['topology']}, {found['devices']} devices, batch {found['global_batch']:,}: "
        f"{verdict}: {needed:.2f} of {limit:.2f} GiB per device ({found['spare']:+.0%} to spare)"
    )
    console.print("  ".join(f"{name}={value}" for name, value in found["settings"].items()))
    if found["temp_bytes"]:
        console.print(_memory(Table(title="memory per device", title_justify="left"), found))
        console.print(_collectives(Table(title="per step", title_justify="left"), found))
        times = found["estimate"]
        console.print(
            f"model FLOPs of a step {found['model_flops']:.3e}; estimated by roofline: "
            f"{times['step_seconds']:.3f} s/step, {times['examples_per_s']:,.0f} examples/s, "
            + (f"MFU at most {times['mfu_bound']:.0%}" if times["mfu_bound"] else "MFU unknown")
        )
    console.print(f"compiled in {found['compile_seconds']} s")


def _memory(table: Any, found: dict[str, Any]) -> Any:
    table.add_column("what")
    table.add_column("MiB", justify="right")
    names = ("args", "output", "temp", "code", "parameter", "optimiser", "gradient", "activation")
    for name in names:
        table.add_row(name, f"{found[f'{name}_bytes'] / 2**20:,.0f}")
    return table


def _collectives(table: Any, found: dict[str, Any]) -> Any:
    table.add_column("collective")
    table.add_column("axis")
    table.add_column("count", justify="right")
    table.add_column("MiB", justify="right")
    for row in found["collectives"]:
        mib = f"{row['bytes'] / 2**20:,.1f}"
        table.add_row(row["kind"], row["axis"], str(row["count"]), mib)
    return table

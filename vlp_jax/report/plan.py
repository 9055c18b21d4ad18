"""Prints the plan of a training step for people.

The file exists so that plan/ only asks the compiler.
"""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_plan(found: dict[str, Any]) -> None:
    """The plan as tables for people."""
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
    less = "" if found.get("machine_code", True) else ", without machine code"
    console.print(f"compiled in {found['compile_seconds']} s{less}")


def _memory(table: Table, found: dict[str, Any]) -> Table:
    table.add_column("what")
    table.add_column("MiB", justify="right")
    names = ("args", "output", "temp", "code", "parameter", "optimiser", "gradient", "activation")
    for name in names:
        table.add_row(name, f"{found[f'{name}_bytes'] / 2**20:,.0f}")
    return table


def _collectives(table: Table, found: dict[str, Any]) -> Table:
    table.add_column("collective")
    table.add_column("axis")
    table.add_column("count", justify="right")
    table.add_column("MiB", justify="right")
    for row in found["collectives"]:
        mib = f"{row['bytes'] / 2**20:,.1f}"
        table.add_row(row["kind"], row["axis"], str(row["count"]), mib)
    return table

"""Titled tables on a terminal.

The file exists so that commands print what they found in one shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a title, and a table where there are rows."""
    console = Console(markup=False, highlight=False)
    table = Table(*(Column(name, overflow="fold") for name in columns))
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(title)
    if rows:
        console.print(table)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Prints {what: value} as a table of two columns."""
    table = Table(show_header=False, title=title)
    for key, value in facts.items():
        table.add_row(key, str(value))
    Console().print(table)


def _cell(value: Any) -> str:
    """{'truncated': 2} -> `truncated 2`; nothing for what is empty."""
    if isinstance(value, Mapping):
        return "  ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)

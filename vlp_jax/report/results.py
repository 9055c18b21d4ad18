"""Results for people and for machines: a console table, JSON, a Markdown page with pictures.

The file exists so that a number never travels without the settings it was measured under, nor
without chance.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vlp_jax.core.strict_json import dumps, plain
from vlp_jax.evals.base import Result

NOTHING = 1e-9  # of 1, or of a column's largest where that is less


def to_json(results: Mapping[str, Result]) -> dict[str, Any]:
    """{name: {'metrics', 'tables', 'protocol'}} of plain values; arrays and figures are left out.

    Numbers that are not finite become None, so that every JSON reader takes the file.
    """
    return {
        name: plain(
            {
                "metrics": result.metrics,
                "tables": result.tables,
                "protocol": result.protocol,
            }
        )
        for name, result in results.items()
    }


def write_json(path: str, content: Any) -> str:
    """Writes plain values as JSON, whole or not at all; returns the path."""
    return write_text(path, dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str, text: str) -> str:
    """Writes text, whole or not at all; returns the path."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.part", path)
    return path


def shown(value: Any, largest: float = 0.0) -> str:
    """A cell of a table: four digits for fractions, none for whole numbers; 0 for what is nothing
    (a BLEU of 1e-13) beside the largest of its column."""
    if isinstance(value, bool | str) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, int | np.integer) or (float(value).is_integer() and abs(value) > 1):
        return f"{int(value):,}"
    if abs(value) < NOTHING * min(largest, 1):
        return "0"
    return f"{value:.4f}" if 1e-4 <= abs(value) <= 1 or value == 0 else f"{value:.4g}"


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a table in words."""
    number = lambda value: isinstance(value, int | float | np.number)  # noqa: E731
    columns = list(zip(*(row.values() for row in rows), strict=True))
    sizes = [[abs(v) for v in some if number(v) and np.isfinite(v)] for some in columns]
    largest = [float(max(some, default=0)) for some in sizes]
    return [[shown(*one) for one in zip(row.values(), largest, strict=True)] for row in rows]


def metric_rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of metric, value and chance: `chance_X` stands beside X and rerank_X, which is of the
    same candidates, and beside X's first word (top1_k20: top1)."""
    rows = []
    for name, value in metrics.items():
        if not name.startswith("chance_"):
            bare = name.removeprefix("rerank_")
            chance = metrics.get(f"chance_{bare}", metrics.get(f"chance_{bare.split('_')[0]}"))
            rows.append({"metric": name, "value": value, "chance": chance})
    if all(row["chance"] is None for row in rows):
        return [{"metric": row["metric"], "value": row["value"]} for row in rows]
    return rows


def print_results(
    results: Mapping[str, Result], console: Console | None = None, rows: int = 12
) -> None:
    """Prints the metrics of each evaluator, then its tables, cut to `rows` rows, then its
    protocol."""
    console = console or Console()
    for name, result in results.items():
        _print_table(console, name, metric_rows(result.metrics))
        for title, table in result.tables.items():
            left = f" (first {rows} of {len(table)})" if len(table) > rows else ""
            _print_table(console, f"{name}: {title}{left}", table[:rows])
        settings = _settings(result.protocol)
        if settings:
            console.print(settings + "\n", style="dim", highlight=False, markup=False)


def _print_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for key, value in rows[0].items():
        table.add_column(key, justify="left" if isinstance(value, str) else "right")
    for row in _cells(rows):
        table.add_row(*row)
    console.print(table)


def _settings(protocol: Mapping[str, Any]) -> str:
    """`key: value; ...` in words: lists and sections without brackets and quotes."""
    return "; ".join(f"{key}: {_words(value)}" for key, value in protocol.items())


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(map(_words, value)) or "none"
    return "none" if value is None or value == "" else str(value)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as a Markdown table; pipes and line breaks in cells are escaped."""
    if not rows:
        return ""
    cells = [list(map(_cell, row)) for row in _cells(rows)]
    right = ["---:" if not isinstance(value, str) else "---" for value in rows[0].values()]
    head = [[_cell(str(key)) for key in rows[0]], right]
    return "\n".join("| " + " | ".join(row) + " |" for row in head + cells) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def write_markdown(
    path: str,
    title: str,
    results: Mapping[str, Result],
    pictures: Mapping[str, str] | None = None,
    intro: str = "",
) -> str:
    """A page of all results; pictures: {caption: path of the PNG}, linked relative to the page."""
    parts = [f"# {title}", intro] if intro else [f"# {title}"]
    for name, result in results.items():
        metrics = metric_rows(result.metrics)
        parts.append(f"## {name}")
        parts += [markdown_table(metrics)] if metrics else []
        parts += [
            f"### {name}: {key}\n\n{markdown_table(rows)}"
            for key, rows in result.tables.items()
            if rows
        ]
        if result.protocol:
            parts.append(f"Settings: {_settings(result.protocol)}")
    for caption, picture in (pictures or {}).items():
        link = os.path.relpath(picture, os.path.dirname(os.path.abspath(path)))
        parts.append(f"## {caption}\n\n![{caption}]({link.replace(os.sep, '/')})")
    return write_text(path, "\n\n".join(parts) + "\n")

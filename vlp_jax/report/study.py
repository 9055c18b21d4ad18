"""What a study leaves behind: results.json, report.md, the table on the screen, and the figure.

The file exists because a paper's number, ours and the verdict are only worth something side by
side.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vlp_jax.report.canvas import BLUE, GREY, literal_text, new_figure, plain_axes, printable, save
from vlp_jax.report.results import markdown_table, write_json, write_text

WIDE = 4  # panels side by side
FIRST = ("cell", "figure", "trend")  # columns of words
MOST = 8  # columns of a table that has more of them than rows
VERDICTS = {True: "pass", False: "FAIL", None: "not run"}


def write_study(
    title: str,
    outcome: Mapping[str, Any],
    folder: str,
    console: Console | None = None,
    draw: Callable[[str, Mapping[str, Mapping[str, Any]], str], str] | None = None,
) -> None:
    """Prints the table and writes results.json, report.md and figure.png.

    Args:
      title: of the study.
      outcome: {cells: {name: {paper, ours, spread}}, trends: {text: verdict}, ...}.
      folder: created.
      draw: as `draw_study`, which it replaces.
    """
    console = console or Console()
    rows, verdicts = turned(cell_rows(outcome["cells"])), trend_rows(outcome["trends"])
    shown = [*((title, part) for part in pieces(rows)), ("trends", verdicts)]
    for heading, part in shown:
        if not part:
            continue
        table = Table(title=heading, title_justify="left", header_style="bold")
        for key in part[0]:
            table.add_column(key, justify="left" if key in FIRST else "right")
        for row in part:
            red = {"style": "bold red"} if "FAIL" in row.values() else {}
            table.add_row(*row.values(), **red)
        console.print(table)
    write_json(os.path.join(folder, "results.json"), outcome)
    (draw or draw_study)(title, outcome["cells"], os.path.join(folder, "figure.png"))
    changes = "".join(f" --config.{k}={v}" for k, v in outcome.get("changes", {}).items())
    versions = ", ".join(f"{k} {v}" for k, v in outcome.get("versions", {}).items())
    made = f"Data: {outcome.get('data', '')}; changes:{changes or ' none'}."
    made += f" Versions: {versions}." if versions else ""
    if any(cell.get("sampling") for cell in outcome["cells"].values()):
        made += " In brackets: the standard error that comes of the test pictures."
    notes = "\n".join(outcome.get("notes", ()))
    if notes:
        console.print(notes, markup=False, highlight=False)
    parts = [
        f"# {title}",
        made,
        notes,
        markdown_table(rows),
        markdown_table(verdicts),
        "![](figure.png)",
    ]
    write_text(os.path.join(folder, "report.md"), "\n\n".join(filter(None, parts)) + "\n")
    console.print(f"results.json, report.md and figure.png in {folder}")


def column_titles(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Columns that any cell has a number in, ours or the paper's, in order."""
    return list(
        dict.fromkeys(t for cell in cells.values() for t in (*cell["ours"], *cell["paper"]))
    )


def cell_rows(cells: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows of {cell, `COLUMN: paper`, `COLUMN: ours`}, the seeds' spread after a plus-minus sign,
    the error that comes of the test pictures in brackets; a side on which no cell has a number is
    left out.
    """

    def shown(number: float | None) -> str:
        return "" if number is None else f"{number:.4g}" if number >= 1000 else f"{number:.1f}"

    def entry(cell: Mapping[str, Any], title: str, side: str) -> str:
        ours = side == "ours"
        spread, sampling = (
            cell.get(k, {}).get(title) if ours else None for k in ("spread", "sampling")
        )
        text = shown(cell[side].get(title)) + ("" if spread is None else f" ± {shown(spread)}")
        return text + ("" if sampling is None else f" (± {shown(sampling)})")

    columns = [
        (title, side)
        for title in column_titles(cells)
        for side in ("paper", "ours")
        if any(title in cell[side] for cell in cells.values())
    ]
    return [
        {"cell": name, **{f"{title}: {side}": entry(cell, title, side) for title, side in columns}}
        for name, cell in cells.items()
    ]


def turned(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The table with a row for each figure and a column for each cell, where it would be wide."""
    if not rows or len(rows[0]) <= max(MOST, len(rows) + 1):
        return rows
    figures = [title for title in rows[0] if title != "cell"]
    return [{"figure": title} | {row["cell"]: row[title] for row in rows} for title in figures]


def pieces(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The table in tables of at most MOST columns of numbers, without the rows that have none."""
    first, *titles = rows[0] if rows else [""]
    groups = [titles[i : i + MOST] for i in range(0, len(titles), MOST)]
    return [
        [{title: row[title] for title in (first, *some)} for row in rows if any(map(row.get, some))]
        for some in groups
    ]


def trend_rows(trends: Mapping[str, bool | None]) -> list[dict[str, str]]:
    """Rows of {trend, verdict}."""
    return [{"trend": text, "verdict": VERDICTS[holds]} for text, holds in trends.items()]


@literal_text
def draw_study(title: str, cells: Mapping[str, Mapping[str, Any]], out: str) -> str:
    """One panel a column, WIDE side by side, the paper beside ours: a line over cells that are
    numbers, matrices where all are `A / B`, else bars; a panel has the cells that have its number.
    Returns the path of the PNG.
    """
    titles, names = column_titles(cells), list(cells)
    pairs = [tuple(name.split(" / ")) for name in names]
    if names and all(len(pair) == 2 for pair in pairs):
        figure = _matrices(titles[0], cells, pairs)
    else:
        draw = _line if _numbers(names) else _bars
        told = [_told(cells, column) for column in titles]
        wide = min(WIDE, len(titles))
        lines = [told[i : i + wide] for i in range(0, len(told), wide)]
        heights = [4.2 if draw is _line else 1.2 + 0.42 * max(map(len, line)) for line in lines]
        figure = new_figure(1.5 + 4.6 * wide, 0.3 + sum(heights))
        panels = figure.subplots(len(lines), wide, squeeze=False, height_ratios=heights).ravel()
        for axes, column, some in zip(panels, titles, told, strict=False):
            draw(axes, column, some)
            plain_axes(axes)
        for axes in panels[len(titles) :]:
            axes.set_axis_off()
        keys = max((axes.get_legend_handles_labels() for axes in panels), key=lambda k: len(k[0]))
        beside = dict(loc="upper left", bbox_to_anchor=(1, 1))
        panels[wide - 1].legend(*keys, frameon=False, fontsize=8, **beside)
    figure.suptitle(printable(title, 110), x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.tight_layout()
    return save(figure, out)


def _told(cells: Mapping[str, Mapping[str, Any]], column: str) -> dict[str, Mapping[str, Any]]:
    """The cells that have a number there."""
    return {
        name: cell for name, cell in cells.items() if column in {**cell["ours"], **cell["paper"]}
    }


def _numbers(names: Sequence[str]) -> bool:
    try:
        return len([float(name) for name in names]) > 1
    except ValueError:
        return False


def _series(cells: Mapping[str, Mapping[str, Any]], part: str, column: str) -> np.ndarray:
    return np.asarray([cell[part].get(column, np.nan) for cell in cells.values()], float)


def _printed(cells: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the paper has a number for any cell."""
    return any(cell["paper"] for cell in cells.values())


def _line(axes: Any, column: str, cells: Mapping[str, Mapping[str, Any]]) -> None:
    place, spread = [float(name) for name in cells], _series(cells, "spread", column)
    if _printed(cells):
        axes.plot(place, _series(cells, "paper", column), color=GREY, marker="s", label="paper")
    ours, error = _series(cells, "ours", column), np.nan_to_num(spread)
    axes.errorbar(place, ours, error, color=BLUE, marker="o", label="ours")
    axes.set_title(printable(column, 40), loc="left", fontsize=10)


def _bars(axes: Any, column: str, cells: Mapping[str, Mapping[str, Any]]) -> None:
    place, error = np.arange(len(cells)), np.nan_to_num(_series(cells, "spread", column))
    looks = [(-0.2, "paper", GREY, None), (0.2, "ours", BLUE, error)]
    if not _printed(cells):
        looks = [(0, *looks[1][1:])]
    for shift, part, color, spread in looks:
        values = _series(cells, part, column)
        how = dict(height=0.36, xerr=spread, color=color, label=part)
        bars = axes.barh(place + shift, np.nan_to_num(values), **how)  # labels keep clear of xerr
        axes.bar_label(bars, [f" {v:.1f}" if np.isfinite(v) else "" for v in values], fontsize=7)
    axes.set_yticks(place, [printable(name, 34) for name in cells], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(printable(column, 40), loc="left", fontsize=10)


def _matrices(
    column: str, cells: Mapping[str, Mapping[str, Any]], pairs: Sequence[tuple[str, ...]]
) -> Any:
    rows, columns = (list(dict.fromkeys(pair[i] for pair in pairs)) for i in (0, 1))
    figure = new_figure(2.4 + 2 * len(columns), 1.6 + 0.62 * len(rows))
    for axes, part in zip(figure.subplots(1, 2), ("paper", "ours"), strict=True):
        grid = np.full((len(rows), len(columns)), np.nan)
        for (row, col), value in zip(pairs, _series(cells, part, column), strict=True):
            grid[rows.index(row), columns.index(col)] = value
        axes.imshow(grid, cmap="Blues", aspect="auto")
        middle = np.nanmean(grid) if np.isfinite(grid).any() else 0
        for (y, x), value in np.ndenumerate(grid):
            if np.isfinite(value):
                shade = "white" if value > middle else "black"
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", color=shade, fontsize=8)
        axes.set_xticks(range(len(columns)), columns, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_title(f"{printable(column, 40)}, {part}", loc="left", fontsize=10)
    return figure

"""What a study leaves: the table's cells, without blank sides, and the figure."""

import io
import json

import numpy as np
import pytest
from matplotlib.container import BarContainer
from PIL import Image
from rich.console import Console

from vlp_jax.report import study
from vlp_jax.report.study import cell_rows, draw_study, pieces, trend_rows, turned, write_study


def cell(paper=(), ours=(), spread=()):
    return {"paper": dict(paper), "ours": dict(ours), "spread": dict(spread)}


CELLS = {
    "a": cell({"acc": 54.63}, {"acc": 50.0, "cost": 1234.5}, {"acc": 0.25}),
    "b": cell({}, {"acc": 7.0}),
    "c": cell({"acc": 1.0}),
}


def test_a_side_without_numbers_has_no_column():
    rows = cell_rows(CELLS)
    assert [list(row) for row in rows] == [["cell", "acc: paper", "acc: ours", "cost: ours"]] * 3
    assert [list(row.values()) for row in rows] == [
        ["a", "54.6", "50.0 ± 0.2", "1234"],
        ["b", "", "7.0", ""],
        ["c", "1.0", "", ""],
    ]
    assert trend_rows({"x": True, "y": False, "z": None}) == [
        {"trend": "x", "verdict": "pass"},
        {"trend": "y", "verdict": "FAIL"},
        {"trend": "z", "verdict": "not run"},
    ]


def test_many_figures_of_few_cells_stand_below_each_other():
    wide = [{"cell": name, **{f"f{i}": f"{name}{i}" for i in range(8)}} for name in "abcdefg"]
    assert turned(wide[:3])[:2] == [
        {"figure": "f0", "a": "a0", "b": "b0", "c": "c0"},
        {"figure": "f1", "a": "a1", "b": "b1", "c": "c1"},
    ]
    assert len(turned(wide[:3])) == 8 and len(turned(wide)[0]) == 8
    longer = [*wide, {**wide[0], "cell": "h"}]
    narrow = [{k: row[k] for k in list(row)[:8]} for row in wide[:3]]
    assert turned(longer) is longer and turned(narrow) is narrow and turned([]) == []


def test_a_wide_table_is_shown_in_pieces_without_blank_rows():
    rows = [
        {"cell": c, **{f"f{i}": c * (i > at) for i in range(10)}} for at, c in [(-1, "a"), (7, "b")]
    ]
    first, second = pieces(rows)
    assert first == [{k: v for k, v in rows[0].items() if k not in ("f8", "f9")}]
    assert second == [{"cell": c, "f8": c, "f9": c} for c in "ab"] and pieces([]) == []


@pytest.mark.parametrize("trends", [{}, {"more is more": False}])
def test_the_page_and_the_screen(trends, tmp_path):
    outcome = {"cells": CELLS, "trends": trends, "data": "D", "changes": {"steps": "3"}}
    console = Console(file=io.StringIO(), width=120)
    drawn = []
    own = lambda *what: drawn.append(what)  # noqa: E731
    write_study("Title", outcome, str(tmp_path / "own"), console, own)
    assert drawn == [("Title", CELLS, str(tmp_path / "own" / "figure.png"))]
    assert not (tmp_path / "own" / "figure.png").exists()
    console = Console(file=io.StringIO(), width=120)
    write_study("Title", outcome, str(tmp_path), console)
    page, screen = (tmp_path / "report.md").read_text(), console.file.getvalue()
    assert page.startswith(
        "# Title\n\nData: D; changes: --config.steps=3.\n\n| cell | acc: paper |"
    )
    assert page.endswith("|\n\n\n![](figure.png)\n") and "\n\n\n\n" not in page
    for text in (page, screen):
        assert ("more is more" in text) == ("FAIL" in text) == bool(trends)
    assert ("trends" in screen) == bool(trends)
    assert (
        json.loads((tmp_path / "results.json").read_text())["cells"]["a"]["ours"]["cost"] == 1234.5
    )
    assert Image.open(tmp_path / "figure.png").size[0] > 400


def drawn(monkeypatch, cells):
    monkeypatch.setattr(study, "save", lambda figure, out: figure)
    return draw_study("T", cells, "").axes


def test_numbers_are_a_line_with_error_bars(monkeypatch):
    cells = {"1": cell({"x": 5}, {"x": 4}, {"x": 0.5}), "10": cell({"x": 6}, {"x": 7})}
    (axes,) = drawn(monkeypatch, cells)
    paper, ours = axes.lines[:2]
    np.testing.assert_array_equal(paper.get_xydata(), [[1, 5], [10, 6]])
    np.testing.assert_array_equal(ours.get_xydata(), [[1, 4], [10, 7]])
    (bars,) = axes.collections
    np.testing.assert_allclose(bars.get_segments(), [[[1, 3.5], [1, 4.5]], [[10, 7], [10, 7]]])


def test_other_names_are_bars_with_their_numbers(monkeypatch):
    axes = drawn(monkeypatch, CELLS)
    assert [a.get_title(loc="left") for a in axes] == ["acc", "cost"]
    groups = [group for group in axes[0].containers if isinstance(group, BarContainer)]
    widths = [[bar.get_width() for bar in group] for group in groups]
    assert widths == [[54.63, 0, 1], [50, 7, 0]]
    said = [text.get_text().strip() for text in axes[0].texts]
    assert said == ["54.6", "", "1.0", "50.0", "7.0", ""]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert axes[0].yaxis_inverted()


def test_many_columns_take_lines_and_panels_leave_out_what_has_no_number(monkeypatch):
    cells = {name: cell({"e": 1.0} if name == "x" else {}, {}) for name in "wxyz"}
    for number, column in enumerate("abcde"):
        cells["y"]["ours"][column] = number
    axes = drawn(monkeypatch, cells)
    shown = [a for a in axes if a.axison]
    assert [a.get_title(loc="left") for a in shown] == list("eabcd") and len(axes) == 8
    rows = [[label.get_text() for label in a.get_yticklabels()] for a in shown]
    assert rows == [["x", "y"], ["y"], ["y"], ["y"], ["y"]]
    assert [t.get_text() for t in axes[3].get_legend().get_texts()] == ["paper", "ours"]


@pytest.mark.parametrize("names", ["ab", "12"])
def test_a_paper_that_prints_nothing_is_not_drawn(monkeypatch, names):
    cells = {name: cell({}, {"x": 4.0}) for name in names}
    (axes,) = drawn(monkeypatch, cells)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours"]


def test_pairs_of_names_are_two_matrices(monkeypatch):
    values = {"r / s": 1.0, "r / t": 2.0, "q / s": 3.0}
    cells = {name: cell({"x": v}, {"x": 10 * v}) for name, v in values.items()}
    for axes, factor in zip(drawn(monkeypatch, cells), (1, 10), strict=True):
        grid = np.asarray(axes.images[0].get_array().filled(np.nan))
        np.testing.assert_array_equal(grid, np.array([[1, 2], [3, np.nan]]) * factor)
        assert {t.get_text() for t in axes.texts} == {f"{v * factor:.1f}" for v in (1, 2, 3)}
        shade = {t.get_text(): t.get_color() for t in axes.texts}
        assert shade[f"{3 * factor:.1f}"] == "white" and shade[f"{1 * factor:.1f}"] == "black"
        assert [t.get_text() for t in axes.get_xticklabels()] == ["s", "t"]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["r", "q"]

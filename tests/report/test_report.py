"""What a report says: JSON that any reader takes, Markdown that renders, chance beside the
value."""

import io
import json

import numpy as np
from rich.console import Console

from vlp_jax.evals.base import Result
from vlp_jax.report.results import (
    markdown_table,
    metric_rows,
    print_results,
    shown,
    to_json,
    write_json,
    write_markdown,
)

RESULTS = {
    "cross": Result(
        {"i2t_r1": np.float32(0.5), "chance_i2t_r1": 0.01, "r_mean": float("nan")},
        {"recall": [{"direction": "a | b", "R@1": 0.5, "n": 12345}]},
        details={"protocol": {"prefix": "", "ties": "pessimistic"}, "image": np.ones((3, 2))},
    )
}


def test_json_is_plain_and_leaves_arrays_out(tmp_path):
    path = write_json(str(tmp_path / "new" / "r.json"), to_json(RESULTS))
    with open(path, encoding="utf-8") as file:
        content = json.load(file, parse_constant=lambda name: 1 / 0)
    assert content["cross"]["metrics"] == {"i2t_r1": 0.5, "chance_i2t_r1": 0.01, "r_mean": None}
    assert set(content["cross"]) == {"metrics", "tables", "protocol"}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["r.json"]


def test_chance_stands_beside_its_metric():
    again = metric_rows({"t_r1": 0.9, "rerank_t_r1": 0.8, "strict_t_r1": 1, "chance_t_r1": 0.2})
    assert [row["chance"] for row in again] == [0.2, 0.2, None]
    rows = metric_rows({"top1_k5": 0.9, "top1": 0.8, "map": 0.1, "chance_top1": 0.5})
    assert [(row["metric"], row["chance"]) for row in rows] == [
        ("top1_k5", 0.5),
        ("top1", 0.5),
        ("map", None),
    ]


def test_markdown_escapes_pipes_and_links_pictures_relatively(tmp_path):
    pictures = {"Training": str(tmp_path / "pics" / "curve.png")}
    path = write_markdown(str(tmp_path / "report.md"), "Title", RESULTS, pictures, "Intro.")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert text.startswith("# Title\n\nIntro.\n\n## ")
    assert text.endswith("## Training\n\n![Training](pics/curve.png)\n"), "numbers come first"
    assert "| i2t_r1 | 0.5000 | 0.0100 |" in text
    assert r"| a \| b | 0.5000 | 12,345 |" in text
    assert "Settings: prefix: none; ties: pessimistic" in text
    assert markdown_table([]) == ""


def test_what_is_empty_is_left_out(tmp_path):
    bare = {"sheet": Result({}, {"per_class": []}), "one": Result({"psnr": 0.5})}
    write_markdown(str(tmp_path / "r.md"), "T", bare)
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert text.startswith("# T\n\n## sheet\n\n## one\n\n| metric | value |\n| --- | ---: |\n")
    assert text.count("#") == 5
    console = Console(file=io.StringIO(), width=100)
    print_results(bare, console)
    out = console.file.getvalue()
    assert "sheet" not in out and "per_class" not in out and "chance" not in out
    assert not out.endswith("\n\n")


def test_settings_are_words():
    protocol = {"templates": ("a {}", "b"), "k": [1, 5], "by": {"l2": 2.0, "fit": ""}, "x": None}
    protocol |= {"markup": "[red]", "no": ()}
    console = Console(file=io.StringIO(), width=200)
    print_results({"zs": Result({"top1": 0.5}, details={"protocol": protocol})}, console)
    wanted = "templates: a {}, b; k: 1, 5; by: l2 2.0, fit none; x: none; markup: [red]; no: none"
    assert wanted in console.file.getvalue()


def test_numbers_in_cells():
    cells = {0.5: "0.5000", 1.0: "1.0000", 12: "12", 223.5: "223.5", 4000.0: "4,000", 1e-7: "1e-07"}
    assert {value: shown(value) for value in cells} == cells
    tiny = [{"metric": "bleu4", "value": 8.6e-14}, {"metric": "rouge_l", "value": 0.25}]
    assert markdown_table(tiny).splitlines()[2:] == ["| bleu4 | 0 |", "| rouge_l | 0.2500 |"]
    assert "| bleu4 | 8.6e-14 |" in markdown_table(tiny[:1]), "it is all that there is"
    few = [{"metric": "kid", "value": 2e-8}, {"metric": "fid", "value": 4e4}]
    assert "| kid | 2e-08 |" in markdown_table(few)
    assert shown(None) == "" and shown("x") == "x" and shown(float("nan")) == "nan"


def test_console_shows_values_and_cuts_long_tables():
    console = Console(file=io.StringIO(), width=100)
    long = Result(
        {"top1": 0.25}, {"per_class": [{"class": f"c{i}", "recall": 0.5} for i in range(20)]}
    )
    print_results({"zs": long, **RESULTS}, console, rows=3)
    out = console.file.getvalue()
    assert "first 3 of 20" in out and "c2" in out and "c3" not in out
    assert "0.2500" in out and "ties: pessimistic" in out

"""Prints what api/data.py found, for people.

The file exists so that the reports of data sets stay plain values.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import printable
from vlp_jax.data.damage import INCOMPLETE
from vlp_jax.report.console import show

Report = Mapping[str, Any]
LONGEST = 200  # characters of a caption that are shown


def print_report(command: str, report: Report, flags: Mapping[str, Any]) -> None:
    """Prints the report of `data COMMAND` with `flags`."""
    for note in report.get("notes", ()):
        print(note)
    if command == "index":
        rows = [
            [r["shard"], r["samples"], r["tokens"], r["bytes"], r["damaged"]]
            for r in report["shards"]
        ]
        show("index", ("shard", "samples", "caption tokens", "bytes", "damaged"), rows)
    elif command == "check":
        _check(report)
    elif command == "stats":
        _stats(report, flags["tokenizer"])
    elif command == "convert":
        left = report["damaged"] or "none"
        title = f"{report['samples']} samples written, damaged and left out: {left}"
        show(title, ("shard",), [[path] for path in report["shards"]])
    elif report.get("name") == "emoji_scenes":
        _scenes(report)
    else:
        name = f" {report['name']}" if command == "prepare" else ""
        items = [(key, value) for key, value in report.items() if key != "name"]
        show(command + name, ("what", "value"), items)


def _scenes(report: Report) -> None:
    counts = report["counts"]
    columns = sorted({column for row in counts.values() for column in row} - {"samples"})
    rows = [[split, row["samples"], *(row.get(c) or "" for c in columns)] for split, row in
            counts.items()]  # fmt: skip
    title = f"prepare emoji_scenes: {len(report['shards'])} tars, {report['words']} word pieces"
    names = [f"{c} object{'s' * (c != 'of 1')}" if c[:2] == "of" else c for c in columns]
    show(title, ("split", "samples", *names), rows)
    asked = report["questions"]
    if asked:
        show("questions", tuple(asked[0]), [list(row.values()) for row in asked])
    print(f"a look at it: {report['sheet']}")


def _check(report: Report) -> None:
    for damage in (*report["damage"], *report["noted"]):
        print(f"{damage['reason']}\t{printable(damage['where'])}")
    kept = Counter(noted["reason"] for noted in report["noted"]).most_common()
    rows = [*Counter(report["reasons"]).most_common(), *((f"{r} (kept)", n) for r, n in kept)]
    verdict = "passed" if report["passed"] else "FAILED"
    what = "damaged or incomplete" if report["reasons"].keys() & INCOMPLETE else "damaged"
    allowed = f"{report['damaged']} {what} of {report['allowed']:.4g} allowed"
    title = f"{report['samples']} samples, {allowed}: {verdict}"
    show(title, ("reason", "places"), rows)


def _stats(report: Report, tokenizer: str) -> None:
    apart = ("path", "notes", "captions")
    items = [(key, value) for key, value in report.items() if key not in apart]
    show(report["path"], ("what", "value"), items)
    rows = [
        [
            _short(c["caption"]),
            f"{c['tokens']}{', cut' if c['cut'] else ''}",
            _short("|".join(c["pieces"])),
        ]
        for c in report["captions"]
    ]
    if rows:
        title = f"captions as tokenizer {tokenizer!r} reads them"
        show(title, ("caption", "tokens", "pieces"), rows)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

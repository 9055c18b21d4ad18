"""What a filter of texts keeps and drops: pictures with their texts, scores and marks, by what
became of the web's text and of the synthetic one (arXiv:2201.12086, figure 4).

The file exists because counts do not say whether what was dropped deserved it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vlp_jax.data.source import Source
from vlp_jax.evals.kits.figures import evenly
from vlp_jax.report.canvas import GREEN, RED, wrapped
from vlp_jax.report.contact import load_pictures
from vlp_jax.report.told import told_sheet

SHOWN = 6  # pictures of a group
_LINES = 5  # texts of a picture
TITLE = "Kept and dropped texts, with the probability of a match"

Note = Mapping[str, Any]  # of api/capfilt_part.py


def filtered_sheet(notes: Callable[[], Iterable[Note]], source: Source, out: str) -> str:
    """Draws pictures from all over a data set; returns the path of the PNG.

    notes: f() -> the decisions, which are gone through twice. source: holds the pictures.
    """
    groups: dict[str, list[int]] = {}
    for note in notes():
        groups.setdefault(fate(note), []).append(int(note["row"]))
    picked = {
        row: name
        for name, rows in groups.items()
        for row in (rows[at] for at in evenly(len(rows), SHOWN))
    }
    shown: dict[str, list[Note]] = {name: [] for name in sorted(groups)}
    for note in notes():
        if int(note["row"]) in picked:
            shown[picked[int(note["row"])]].append({"image": note["row"], "lines": _lines(note)})
    titles = {f"{name}: {len(groups[name]):,} pictures": found for name, found in shown.items()}
    return told_sheet(titles, load_pictures(source, list(picked)), out, TITLE)


def fate(note: Note) -> str:
    """What became of a picture's texts.

    >>> fate({"texts": [{"from": "web", "kept": False}, {"from": "synthetic", "kept": True}]})
    'web dropped, synthetic kept'
    """
    found: dict[str, bool] = {}
    for said in note["texts"]:
        found[said["from"]] = found.get(said["from"], False) or said["kept"]
    words = (f"{name} {'kept' if kept else 'dropped'}" for name, kept in found.items())
    return ", ".join(words) or "no text"


def _lines(note: Note) -> list[tuple[str, dict[str, Any]]]:
    """A line of each text: mark, score, where it comes from."""
    found = []
    for said in note["texts"][-_LINES:]:
        mark, colour = ("\u2713", GREEN) if said["kept"] else ("\u2717", RED)
        score = "  -  " if said["score"] is None else f"{said['score']:.2f}"
        text = wrapped(said["text"], 72, 1) or "(nothing)"
        weight = "bold" if said["from"] == "synthetic" else "normal"
        found.append((f"{mark} {score}  {said['from']}: {text}", dict(color=colour, weight=weight)))
    return found

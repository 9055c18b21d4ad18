"""NLVR2's sentences about two pictures, as they are released (arXiv:1811.00491; lil-lab/nlvr): one
JSON object a line in files named .json, whose identifiers say how their pictures are called; or a
list of objects that name them (salesforce/BLIP's nlvr_dev.json).

The file exists so that such a file is a table of two pictures, a sentence and a label.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

PAIRS = "pairs"
IMAGES = ("image", "second_image")  # columns
_LABELS = {"true": 1, "false": 0}
_PAIR = re.compile(r"(.+)-\d+")  # of split-set-pair-sentence all but the last


def is_pair(entry: Any) -> bool:
    """Whether an object of JSON is a sentence about two pictures."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("sentence"), str):
        return False
    if isinstance(entry.get("images"), list):
        return len(entry["images"]) == 2 and all(isinstance(name, str) for name in entry["images"])
    return _name(entry) is not None


def _name(entry: Mapping[str, Any]) -> re.Match | None:
    return (
        _PAIR.fullmatch(entry["identifier"]) if isinstance(entry.get("identifier"), str) else None
    )


def pair_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A row of such an object: its keys, image and second_image, and `label` 1 or 0.

    The training pictures of NLVR2 lie in numbered folders, which the entries tell.

    >>> row = pair_of({"sentence": "Two.", "label": "True", "identifier": "dev-850-0-1"})
    >>> row["image"], row["second_image"], row["label"]
    ('dev-850-0-img0.png', 'dev-850-0-img1.png', 1)
    """
    names = entry.get("images")
    if not isinstance(names, list):
        folder = f"{entry['directory']}/" if "directory" in entry else ""
        names = [f"{folder}{_name(entry)[1]}-img{i}.png" for i in range(2)]
    label = str(entry.get("label", "")).lower()
    told = {"label": _LABELS[label]} if label in _LABELS else {}
    kept = {key: value for key, value in entry.items() if key != "images"}
    return {**kept, **dict(zip(IMAGES, names, strict=True)), **told}


def pair_lines(text: str) -> list[Any]:
    """The objects of a file with one such on every line; [] of another file."""
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        found = list(map(json.loads, lines)) if is_pair(json.loads(lines[0])) else []
    except (ValueError, RecursionError, IndexError):
        return []
    return found if all(map(is_pair, found)) else []

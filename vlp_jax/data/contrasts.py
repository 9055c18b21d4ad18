"""Pictures with a caption and one that is wrong in a word or in the order of words, as released:
Winoground (arXiv:2204.03162, examples.jsonl) and SugarCrepe (arXiv:2306.14610, a JSON a category).

The file exists so that both become rows {image, caption, negative_caption, category}; the two rows
of a Winoground example, each of which has the other's caption as its negative, share a `pair`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlp_jax.data.caption_list import LOOKED_AT, place_of
from vlp_jax.data.delimited import Row

NEGATIVE = "negative_caption"
_WINOGROUND = ("image_0", "image_1", "caption_0", "caption_1")
_SUFFIXES = (".png", "", ".jpg", ".jpeg")  # which its names lack
_COCO = "val2017"


def is_sugar_crepe(found: Mapping[str, Any]) -> bool:
    """Whether JSON is {"0": {filename, caption, negative_caption}, ...}."""
    first = next(iter(found.values()), None)
    return isinstance(first, Mapping) and NEGATIVE in first


def sugar_crepe(path: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a category, which is the file's name; COCO's pictures lie in `val2017` beside the
    file or its folder, or right there. Raises KeyError, TypeError: an entry of another form."""
    folder, category = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
    beside = os.path.join(os.pardir, _COCO)
    base = beside if os.path.isdir(os.path.join(folder, beside)) else _COCO
    return [
        {
            "image": os.path.join(base, entry["filename"]),
            "caption": entry["caption"],
            NEGATIVE: entry[NEGATIVE],
            "category": category,
        }
        for entry in found.values()
    ]


def with_pairs(rows: Sequence[Row], path: str) -> list[Row]:
    """The rows of a table, where they are Winoground's two for each; else as they are."""
    if not rows or not all(isinstance(rows[0][1].get(key), str) for key in _WINOGROUND):
        return list(rows)
    names = [row.get("image_0") for _, row in rows[:LOOKED_AT]]
    base, suffix = _place(os.path.dirname(os.path.abspath(path)), names)
    return [
        (number, made)
        for number, row in rows
        for made in _two({k: v for k, v in row.items() if k not in _WINOGROUND}, row, base, suffix)
    ]


def _two(
    others: Mapping[str, Any], row: Mapping[str, Any], base: str, suffix: str
) -> Iterator[dict[str, Any]]:
    for mine, other in ((0, 1), (1, 0)):
        name = row.get(f"image_{mine}")
        yield {
            "image": os.path.join(base, name + suffix) if isinstance(name, str) else None,
            "caption": row.get(f"caption_{mine}"),
            NEGATIVE: row.get(f"caption_{other}"),
            "pair": row.get("id"),
            "category": row.get("collapsed_tag", row.get("tag")),
            **others,
        }


def _place(folder: str, names: Sequence[Any]) -> tuple[str, str]:
    """The folder of pictures below the table's, and the suffix that their names lack."""
    for suffix in _SUFFIXES:
        base = place_of(folder, (name + suffix for name in names if isinstance(name, str)))
        if base:
            return os.path.relpath(base, folder), suffix
    return "images", _SUFFIXES[0]

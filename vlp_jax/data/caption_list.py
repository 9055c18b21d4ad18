"""Lists with one row a caption and several rows a picture, as Flickr8k and Flickr30k come:
`NAME.jpg#K<TAB>caption` (results_20130124.token, Flickr8k.token.txt), or under a header with bars
(`image_name| comment_number| comment`, results.csv).

Quotes are letters in them, which the csv module would take for its own. The file exists because a
row of its own for every caption makes a picture its own negative, and hold-outs of rows leak it.
"""

import glob
import os
from collections.abc import Iterable, Sequence

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import Damage
from vlp_jax.data.delimited import Row

TOKEN = (".token", ".token.txt")
NUMBERS = ("comment_number", "caption_number")
KNOWN = ("results_20130124.token", "Flickr8k.token.txt", "results.csv")  # files of the releases
LOOKED_AT = 20  # names by which a folder is found: pictures of a list may be missing
_DEPTH = 3  # folders below the list in which its pictures are looked for


def is_caption_list(path: str, first: str) -> bool:
    """Whether a table whose first line is `first` is such a list."""
    return path.lower().endswith(TOKEN) or _header(first) is not None


def _header(line: str) -> list[str] | None:
    """The columns of a list with bars; None for other lines."""
    cells = [cell.strip().lower() for cell in line.split("|")]
    return cells if len(cells) == 3 and cells[1] in NUMBERS else None


def list_in(folder: str) -> str:
    """The list of a release in a folder; "" where there is none."""
    for name in KNOWN:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                if is_caption_list(path, file.readline()):
                    return path
    return ""


def read_caption_list(path: str, lines: Sequence[str]) -> tuple[list[Row], list[Damage]]:
    """One row a picture, {image, caption: [captions by their numbers]}, with the line of its first,
    and damage by line.

    Raises:
      UserError: no row at all.
    """
    barred = _header(lines[0]) is not None if lines else False
    captions: dict[str, dict[int, str]] = {}
    place: dict[str, int] = {}
    damage = []
    for number, line in enumerate(lines[barred:], start=1 + barred):
        if not line.strip():
            continue
        cells = _barred(line) if barred else _tabbed(line)
        if cells is None or not cells[0] or not cells[1].isdecimal():
            wanted = "no NAME| NUMBER| caption" if barred else "no NAME#NUMBER<TAB>caption"
            damage.append(Damage("bad_row", f"{path}: line {number} ({wanted})"))
            continue
        name, at, text = cells
        place.setdefault(name, number)
        captions.setdefault(name, {}).setdefault(int(at), text)
    if not captions:
        raise UserError(f"no rows in {path!r}")
    rows = [
        (place[name], {"image": name, "caption": [some[k] for k in sorted(some)]})
        for name, some in captions.items()
    ]
    return rows, damage


def _barred(line: str) -> tuple[str, str, str] | None:
    cells = [cell.strip() for cell in line.split("|", 2)]
    return tuple(cells) if len(cells) == 3 else None


def _tabbed(line: str) -> tuple[str, str, str] | None:
    name, tab, text = line.partition("\t")
    stem, mark, at = name.strip().rpartition("#")
    return (stem, at, text.strip()) if tab and mark else None


def pictures_of(folder: str, name: str) -> str:
    """The folder from which a list names its picture: its own, or one below it, where a release
    unpacks them; its own where none does."""
    for depth in range(_DEPTH):
        found = glob.glob(os.path.join(glob.escape(folder), *["*"] * depth, glob.escape(name)))
        if found:
            return os.path.dirname(min(found)[: -len(name)])
    return folder


def place_of(folder: str, names: Iterable[str]) -> str:
    """The folder from which the first of some names that is there is named; '' where none is."""
    for name in names:
        found = pictures_of(folder, name)
        if os.path.exists(os.path.join(found, name)):
            return found
    return ""

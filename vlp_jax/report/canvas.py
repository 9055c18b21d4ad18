"""Figures without a window system, in colours that colour-blind readers can tell apart.

Colours: Okabe and Ito 2008. The file exists so that every picture of a report has the same look,
survives captions in any script (glyphs that the font lacks become their Unicode names) and is never
half-written.
"""

import contextlib
import functools
import os
import unicodedata
from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6B6B6B"

# stand in where the font lacks a character, as far as a machine has them
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans"),
    *("Microsoft YaHei", "Arial Unicode MS"),
)


def installed(families: Iterable[str]) -> list[str]:
    """Those font families that this machine has."""
    found = []
    for family in families:
        with contextlib.suppress(ValueError):
            findfont(FontProperties(family=[family]), fallback_to_default=False)
            found.append(family)
    return found


FAMILIES = [*matplotlib.rcParams["font.family"], *installed(_FALLBACKS)]
# decorator of every function that draws: `$` in a caption is a dollar sign, not mathematics
literal_text = matplotlib.rc_context({"text.parse_math": False, "font.family": FAMILIES})


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of width x height inches."""
    figure = Figure(figsize=(width, height), layout=None, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str, dpi: int = 110) -> str:
    """Writes a PNG through a temporary file and returns its path."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    figure.savefig(f"{path}.part", dpi=dpi, format="png")
    os.replace(f"{path}.part", path)
    return path


@functools.cache
def _known_glyphs() -> frozenset[int]:
    paths = map(findfont, (FontProperties(family=[family]) for family in FAMILIES))
    return frozenset(glyph for path in paths for glyph in FT2Font(path).get_charmap())


def printable(text: str, width: int = 0) -> str:
    """Text the font can draw, in one line, cut to `width` characters (0 = uncut).

    >>> printable("a \\U0001f600 b")
    'a (grinning face) b'
    """
    parts = []
    for character in unicodedata.normalize("NFC", " ".join(str(text).split())):
        kind = unicodedata.category(character)[0]
        if kind == "C" or "\ufe00" <= character <= "\ufe0f":  # joiners, controls, selectors
            continue
        if ord(character) in _known_glyphs():
            parts.append(character)
        elif kind != "M":
            name = unicodedata.name(character, "").lower()
            is_named = name and "ideograph" not in name
            parts.append(f"({name})" if is_named else f"(U+{ord(character):X})")
    out = "".join(parts)
    return out if not width or len(out) <= width else out[: width - 1].rstrip() + "…"


def wrapped(text: str, width: int, lines: int) -> str:
    """Text in at most `lines` lines of at most `width` characters, cut with an ellipsis."""
    rows = [""]
    for word in printable(text).split():
        word = printable(word, width)
        if rows[-1] and len(rows[-1]) + 1 + len(word) > width:
            rows.append(word)
        else:
            rows[-1] = f"{rows[-1]} {word}".strip()
    if len(rows) > lines:
        rows = [*rows[: lines - 1], printable(rows[lines - 1] + " …" * width, width)]
        rows[-1] = rows[-1].replace(" …", "").rstrip("… ") + "…"
    return "\n".join(rows)


def show_picture(axes, picture: np.ndarray, frame: str = "#CCCCCC", width: float = 1.0) -> None:
    """Draws uint8[H, W, 3] without ticks, inside a frame of the given colour."""
    axes.imshow(picture, interpolation="nearest" if picture.shape[0] < 64 else "antialiased")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(edgecolor=frame, linewidth=width)


def plain_axes(axes) -> None:
    """Removes the upper and right border and lays a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)

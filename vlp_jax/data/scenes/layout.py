"""Which objects a scene has and where they lie: a pure function of (options, split, number).

The file exists so that a scene can be told, asked about and drawn by any process in any order.
"""

import functools
import hashlib
import zlib
from typing import NamedTuple

import numpy as np

from vlp_jax.data.scenes.changes import TINTS
from vlp_jax.data.scenes.options import Options
from vlp_jax.data.scenes.things import Thing, roster, sized

CANVAS = 96
BORDER = 2  # pixels between a box and the canvas's edge
OVERLAP = 0.05  # of the smaller of two boxes, at most
SIDES = {1: (44, 64), 2: (36, 48), 3: (32, 42), 4: (28, 36)}  # of the pictures, by objects
REPEAT = 0.4  # chance that the next object is another of the last kind
STYLES = {"train": "noto", "val": "noto", "noisy": "noto", "test": "twemoji"}
BOTH = ("noto", "twemoji")
CHANGED = ("train", "noisy")  # splits that are learned from
_PARTS = {"val": range(10), "test": range(10, 30)}  # hundredths of all contents; others: the rest
_TRIES = 100
_NEW = 50  # contents drawn in search of one that a split has not had
QUESTIONS = 3  # asked of a scene in a VQA split


class Placed(NamedTuple):
    """An object of a scene: its kind, the side of its picture, the picture's corner, the box
    (top, left, height, width) around its mask, in pixels, and how it is changed (changes.py)."""

    thing: Thing
    side: int
    corner: tuple[int, int]
    box: tuple[int, int, int, int]
    change: int = -1

    @property
    def centre(self) -> tuple[float, float]:
        """Of the box: y, x."""
        top, left, height, width = self.box
        return top + height / 2, left + width / 2


class Scene(NamedTuple):
    """Objects from back to front; style: of the drawing."""

    split: str
    number: int
    style: str
    objects: tuple[Placed, ...]

    @property
    def counts(self) -> dict[Thing, int]:
        """How many of each kind, in the order of first mention."""
        kinds = [placed.thing for placed in self.objects]
        return {kind: kinds.count(kind) for kind in kinds}


def stream(options: Options, split: str, number: int, use: str) -> np.random.Generator:
    """The random numbers of one use in one scene."""
    return np.random.default_rng([options.seed, zlib.crc32(f"{split} {use}".encode()), number])


def _part(kinds: tuple[Thing, ...]) -> int:
    """0..99, by the names alone, whatever their order."""
    text = " ".join(sorted(kind.key + kind.tint for kind in kinds))
    return int.from_bytes(hashlib.sha256(f"scene {text}".encode()).digest()[:8], "big") % 100


def _drawn(rng: np.random.Generator, options: Options) -> tuple[Thing, ...]:
    kinds, weights = kinds_of(options), np.arange(1, options.most + 1)
    count = int(rng.choice(weights, p=weights / weights.sum()))
    found = [kinds[rng.integers(len(kinds))]]
    while len(found) < count:
        kind = found[-1] if rng.random() < REPEAT else kinds[rng.integers(len(kinds))]
        if kind in found or all(kind.apart(other) for other in found):
            found.append(kind)
    return tuple(found) if not options.tints else _tinted(rng, found, options.tints)


def _tinted(rng: np.random.Generator, found: list[Thing], share: float) -> tuple[Thing, ...]:
    """Objects of one kind alike."""
    tints = {kind: rng.random() < share and str(rng.choice(list(TINTS))) for kind in found}
    return tuple(kind.tinted(tints[kind]) if tints[kind] else kind for kind in found)


def kinds_of(options: Options) -> tuple[Thing, ...]:
    """The kinds of objects that scenes are made of, without tints."""
    return roster(options.objects)[: options.kinds or None]


def words_of(options: Options) -> list[str]:
    """Words of tints and of styles, where scenes have them."""
    return [*(TINTS if options.tints else ()), *((*BOTH, "style") * (options.styles == "both"))]


def scenes_of(options: Options, split: str) -> int:
    """How many scenes of a split its pictures and its questions need."""
    asked = getattr(options, f"vqa_{split}", 0)
    return max(getattr(options, split), -(-asked // QUESTIONS))


@functools.lru_cache(16)
def contents(options: Options, split: str) -> tuple[tuple[Thing, ...], ...]:
    """The kinds of the objects of all scenes of a split.

    What val and test show (kinds and how many of each) is in no other split, and nearly always
    another each time (492 contents in 500 small scenes of test): a new one is sought 50 times. A
    longer list begins with a shorter one.
    """
    rng = stream(options, split, 0, "contents")
    others = {part for parts in _PARTS.values() for part in parts}
    parts = set(_PARTS.get(split, set(range(100)) - others))
    seen: set[tuple[str, ...]] = set()
    found = []
    for _ in range(scenes_of(options, split)):
        tries = 0
        while True:
            kinds = _drawn(rng, options)
            name = tuple(sorted(kind.key + kind.tint for kind in kinds))
            tries += _part(kinds) in parts
            if _part(kinds) in parts and (split not in _PARTS or name not in seen or tries > _NEW):
                break
        seen.add(name)
        found.append(kinds)
    return tuple(found)


def _overlap(one: tuple[int, ...], two: tuple[int, ...]) -> float:
    """Of two boxes, as a share of the smaller."""
    shared = 1.0
    for axis in (0, 1):
        end = min(one[axis] + one[axis + 2], two[axis] + two[axis + 2])
        shared *= max(0, end - max(one[axis], two[axis]))
    return shared / min(one[2] * one[3], two[2] * two[3])


@functools.lru_cache(4096)
def extent(style: str, look: tuple[str, str], side: int, change: int) -> tuple[int, int, int, int]:
    """The box (top, left, height, width) around an object's mask in its own picture."""
    mask = sized(style, look, side, change)[1] >= 0.5
    ys, xs = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
    return ys[0], xs[0], ys[-1] - ys[0] + 1, xs[-1] - xs[0] + 1


def _placed(
    rng: np.random.Generator,
    kinds: tuple[Thing, ...],
    changes: list[int],
    style: str,
    shrink: float,
) -> list[Placed]:
    found: list[Placed] = []
    low, high = SIDES[len(kinds)]
    for kind, change in zip(kinds, changes, strict=True):
        side = int(rng.integers(low, high + 1) * shrink)
        top, left, height, width = extent(style, kind.look, side, change)
        for _ in range(_TRIES):
            y = int(rng.integers(BORDER, CANVAS - BORDER - height + 1))
            x = int(rng.integers(BORDER, CANVAS - BORDER - width + 1))
            box = y, x, height, width
            if all(_overlap(box, other.box) <= OVERLAP for other in found):
                found.append(Placed(kind, side, (y - top, x - left), box, change))
                break
        else:
            return []
    return found


@functools.lru_cache(4096)
def scene(options: Options, split: str, number: int) -> Scene:
    """Scene `number` of a split; where the objects find no room they shrink."""
    kinds, style = contents(options, split)[number], STYLES[split]
    if options.styles == "both":
        style = str(stream(options, split, number, "style").choice(BOTH))
    rng, shrink = stream(options, split, number, "layout"), options.scale
    looks = stream(options, split, number, "changes")
    share = options.changes if split in CHANGED else 0.0
    changed = looks.random(len(kinds)) < share
    changes = np.where(changed, looks.integers(2**62, size=len(kinds)), -1).tolist()
    while not (objects := _placed(rng, kinds, changes, style, shrink)):
        shrink *= 0.97
    return Scene(split, number, style, tuple(objects))

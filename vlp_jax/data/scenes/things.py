"""Which emoji are objects of scenes, what they are called, and their pictures with masks.

The embedded pictures lie on white without alpha, so the mask of an object is what white does not
reach from the border: white parts inside belong to it. The file exists as the one place where an
emoji becomes an object that can be laid on a canvas.
"""

import functools
import re
import unicodedata
from typing import NamedTuple

import numpy as np
from PIL import Image

from vlp_jax.data.decode import decode_image
from vlp_jax.data.open import open_source
from vlp_jax.data.scenes.changes import changed, tinted
from vlp_jax.data.scenes.flood import reached

SIDE = 64
WHITE = 250  # least channel of what counts as paper
LEAST = 0.05  # share of its picture that an object fills at least
# Things that both styles draw much alike. A small network that has seen one style does not know a
# key, a butterfly, a hamburger or a koala in the other.
SMALL = {
    **{"apple": "1f34e", "banana": "1f34c", "eggplant": "1f346", "watermelon": "1f349"},
    **{"doughnut": "1f369", "cupcake": "1f9c1", "tree": "1f333", "flower": "1f33b"},
    **{"tulip": "1f337", "panda": "1f43c", "pig": "1f437", "star": "2b50", "heart": "2764"},
    **{"cloud": "2601", "snowflake": "2744", "umbrella": "2602", "pencil": "270f"},
    **{"crown": "1f451", "basketball": "1f3c0", "taxi": "1f695", "bed": "1f6cf", "bone": "1f9b4"},
    **{"door": "1f6aa", "camera": "1f4f7"},
}
_CONSONANT = ("uni", "eu", "ew", "one", "ut", "uk", "us")  # beginnings that sound as "you" or "won"


class Thing(NamedTuple):
    """A kind of object: its name, which tells its tint, the key of its emoji, and the tint
    (changes.py), '' for its own colours."""

    name: str
    key: str
    tint: str = ""

    def tinted(self, tint: str) -> "Thing":
        """The same in one colour."""
        return Thing(f"{tint} {self.name}", self.key, tint)

    @property
    def look(self) -> tuple[str, str]:
        """What it is drawn by: key and tint."""
        return self.key, self.tint

    @property
    def plural(self) -> str:
        """The name of several, by the regular rules; a name in the plural stays."""
        name = self.name
        if name.endswith("s") and not name.endswith(("ss", "us")):
            return name
        if name.endswith(("s", "x", "ch", "sh")):
            return f"{name}es"
        ends = name.endswith("y") and name[-2:-1] not in "aeiou"
        return f"{name[:-1]}ies" if ends else f"{name}s"

    @property
    def one(self) -> str:
        """The name with its article."""
        vowel = self.name[0] in "aeiou" and not self.name.startswith(_CONSONANT)
        return f"{'an' if vowel else 'a'} {self.name}"

    def apart(self, other: "Thing") -> bool:
        """Whether the names have no word in common, so that neither may be taken for the other."""
        return not set(self.name.split()) & set(other.name.split())


@functools.cache
def _shards(style: str) -> tuple:
    found = [open_source(f"builtin:emoji/{style}-{split}") for split in ("train", "val", "test")]
    return tuple((source, {key: i for i, key in enumerate(source.shards[0][1].keys)})
                 for source in found)  # fmt: skip


@functools.cache
def pixels(style: str, key: str) -> np.ndarray:
    """The embedded picture of an emoji: uint8[64, 64, 3]."""
    source, row = next((source, rows[key]) for source, rows in _shards(style) if key in rows)
    return decode_image(source[row]["image"], SIDE, "squash", None)


@functools.cache
def whole_mask(style: str, key: str) -> np.ndarray:
    """Where the object is in its picture: bool[64, 64]."""
    paper = pixels(style, key).min(-1) >= WHITE
    edge = np.pad(np.zeros((SIDE - 2, SIDE - 2), bool), 1, constant_values=True)
    return ~reached(paper & edge, paper)


@functools.lru_cache(4096)
def sized(
    style: str, look: tuple[str, str], side: int, change: int = -1
) -> tuple[np.ndarray, np.ndarray]:
    """The object at another size: its picture uint8[side, side, 3] and its cover
    float32[side, side] in [0, 1]; it is where the cover is at least a half. look: Thing.look;
    change: see changes.py, -1 leaves it as it is."""
    key, tint = look
    drawn, mask = pixels(style, key), whole_mask(style, key)
    if change >= 0:
        drawn, mask = changed(drawn, mask, change)
    if tint:
        drawn = tinted(drawn, tint)
    picture = Image.fromarray(drawn).resize((side, side), Image.Resampling.BOX)
    cover = Image.fromarray(np.uint8(mask) * 255)
    cover = np.asarray(cover.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    return np.asarray(picture), cover


def ascii_words(label: str) -> str:
    """A label in lower case words of ASCII letters and digits.

    >>> ascii_words("woman’s hat"), ascii_words("piñata")
    ('womans hat', 'pinata')
    """
    plain = unicodedata.normalize("NFKD", label).replace("’", "").encode("ascii", "ignore")
    return " ".join(re.findall("[a-z0-9]+", plain.decode().lower()))


@functools.cache
def roster(objects: str) -> tuple[Thing, ...]:
    """All kinds of objects, "small" or "all". Of emoji with one name or one picture in a style the
    first is kept, and none that is nearly all white."""
    if objects == "small":
        return tuple(Thing(*entry) for entry in SMALL.items())
    names: dict[str, str] = {}
    for source, rows in _shards("noto"):
        for key, row in rows.items():
            meta = source.metadata(row)["meta"]
            if meta["skin_tone"] == "none":
                names.setdefault(ascii_words(meta["label"]), key)
    taken: set[bytes] = set()
    kept = []
    for name, key in sorted(names.items(), key=lambda entry: entry[1]):
        looks = {style.encode() + pixels(style, key).tobytes() for style in ("noto", "twemoji")}
        if not looks & taken and all(_fills(style, key) for style in ("noto", "twemoji")):
            kept.append(Thing(name, key))
        taken |= looks
    return tuple(kept)


def _fills(style: str, key: str) -> bool:
    return bool(whole_mask(style, key).mean() >= LEAST)

"""Which emoji belong together, what they are called and which split they are in.

Names come from emojibase (Unicode CLDR annotations), sequences from Unicode Technical Standard 51.
The file exists so that the split by concept is decided once, when the embedded set is built, and is
data ever after.
"""

import hashlib
from collections.abc import Iterable, Mapping

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
KEYWORDS_IN_CAPTION = 6
_SKIN = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_FAMILY = {"1F466", "1F467", "1F468", "1F469", "1F9D1", "1F9D2"}
# Signs that make a person a man or a woman, or face right: the same concept without them.
_SUFFIXES = ("-200D-27A1", "-200D-2640", "-200D-2642")
# Gendered code points and sequences with no shared sequence in Unicode -> the neutral one.
_NEUTRAL = {
    "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3", "1F934": "1FAC5",
    "1F478": "1FAC5", "1F385": "1F9D1-200D-1F384", "1F936": "1F9D1-200D-1F384", "1F57A": "1F483",
    "1F930": "1FAC4", "1FAC3": "1FAC4", "1F46B": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F46C": "1F9D1-200D-1F91D-200D-1F9D1", "1F46D": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F9D1-200D-2764-200D-1F48B-200D-1F9D1": "1F48F", "1F9D1-200D-2764-200D-1F9D1": "1F491",
}  # fmt: skip


def plain(hexcode: str) -> str:
    """The code points without the presentation selector: names a picture in every source.

    >>> plain("002A-fe0f-20e3")
    '002A-20E3'
    """
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def concept_of(base: str) -> str:
    """The concept of a base emoji: its code points without skin tone, gender and direction.

    >>> concept_of("1F3C3-200D-2642-FE0F"), concept_of("1F469-200D-1F680")
    ('1F3C3', '1F9D1-200D-1F680')
    """
    code = plain(base)
    for suffix in _SUFFIXES:  # direction stands after gender
        code = code.removesuffix(suffix)
    parts = [part for part in code.split("-") if len(code) == 5 or part not in _SKIN]
    people = [part for part in parts if part != "200D"]
    if len(people) > 1 and set(people) <= _FAMILY:
        return "1F46A"
    code = "-".join("1F9D1" if part in ("1F468", "1F469") else part for part in parts)
    return _NEUTRAL.get(code, code)


def merge_concepts(concepts: Mapping[str, str], same: Iterable[Iterable[str]]) -> dict[str, str]:
    """Concepts by key after joining those of keys that share one picture (flags of dependencies).

    The joined concept is named by its first member in code point order.
    """
    parent = {concept: concept for concept in concepts.values()}

    def root(concept: str) -> str:
        while parent[concept] != concept:
            concept = parent[concept]
        return concept

    for keys in same:
        roots = sorted({root(concepts[key]) for key in keys})
        parent.update(dict.fromkeys(roots, roots[0]))
    return {key: root(concept) for key, concept in concepts.items()}


def split_of(concept: str) -> str:
    """'train', 'val' or 'test', about 80/10/10, by a hash of the concept alone.

    The salt 11 is the first of 1..400 that leaves every sub-category in train and gives val and
    test their tenth both of the concepts and of the samples (concepts have 1 to 104 samples).
    """
    value = (
        int.from_bytes(hashlib.sha256(f"vlp_jax emoji 11 {concept}".encode()).digest()[:8], "big")
        % 10
    )
    return {8: "val", 9: "test"}.get(value, "train")


def skin_tone(tone: int | list[int] | None) -> str:
    """'none', one of TONES, or two of them joined by ' + ' (people of two tones)."""
    if not tone:
        return "none"
    tones = tone if isinstance(tone, list) else [tone]
    return " + ".join(TONES[t - 1] for t in dict.fromkeys(tones))


def _captions(label: str, keywords: list[str], tone: str) -> list[str]:
    """The label, then up to six keywords (and the skin tone, which tells variants apart)."""
    listed = keywords[:KEYWORDS_IN_CAPTION] + ([] if tone == "none" else [f"{tone} skin tone"])
    return [label] if len(keywords) < 2 else [label, ", ".join(listed)]


def _by_hexcode(data: list[dict]) -> dict[str, dict]:
    return {one["hexcode"]: one for base in data for one in [base, *base.get("skins", [])]}


def records(
    english: list[dict],
    spanish: list[dict],
    groups: Mapping[str, str],
    subgroups: Mapping[str, str],
) -> dict[str, dict]:
    """Metadata by key (code points in lower case joined by '-') of every emoji that has a category.

    Arguments are emojibase's `data.json` of both languages and the names of its groups by number.
    """
    other, found = _by_hexcode(spanish), {}
    for base in english:
        if "group" not in base:  # the 26 regional indicator letters are no pictures
            continue
        for one in [base, *base.get("skins", [])]:
            tone, twin = skin_tone(one.get("tone")), other[one["hexcode"]]
            keywords = base.get("tags", [])
            found[plain(one["hexcode"]).lower()] = {
                "label": one["label"],
                "label_es": twin["label"],
                "keywords": keywords,
                "keywords_es": other[base["hexcode"]].get("tags", []),
                "category": groups[str(base["group"])],
                "subcategory": subgroups[str(base["subgroup"])],
                "emoji": one["emoji"],
                "hexcode": one["hexcode"],
                "base": base["hexcode"],
                "skin_tone": tone,
                "captions": _captions(one["label"], keywords, tone),
            }
    return found

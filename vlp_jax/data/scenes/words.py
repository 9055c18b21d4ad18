"""The closed vocabulary of scenes and how counts, places and relations are put into words.

The file exists so that a tokenizer of about 150 pieces reads every text without an unknown word.
"""

from collections.abc import Iterable

from vlp_jax.data.scenes.things import Thing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_FUNCTION = """
a an the and of in on at to with is are there this here we see you do no yes
picture image photo shows what where how many things object objects thing side
left right above below over under top bottom middle corner one two three four 0 1 2 3 4 ?
"""
FUNCTION = tuple(_FUNCTION.split())
NUMBERS = ("no", "one", "two", "three", "four")
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


def counted(kind: Thing, count: int) -> str:
    """'a dog', 'two dogs'."""
    return kind.one if count == 1 else f"{NUMBERS[count]} {kind.plural}"


def definite(kind: Thing, count: int) -> str:
    """'the dog', 'the dogs'."""
    return f"the {kind.name if count == 1 else kind.plural}"


def at(place: str, corner: bool = False) -> str:
    """'in the top left', 'at the top', 'on the left', 'in the middle'."""
    if " " in place:
        return f"in the {place} corner" if corner else f"in the {place}"
    word = {"left": "on", "right": "on", "middle": "in"}.get(place, "at")
    side = " side" if corner and place in ("left", "right") else ""
    return f"{word} the {place}{side}"


def vocabulary(kinds: Iterable[Thing], more: Iterable[str] = ()) -> list[str]:
    """The lines of BERT's vocab.txt: special pieces, then all words of texts about such kinds, and
    more words."""
    names = {word for kind in kinds for word in f"{kind.name} {kind.plural}".split()}
    return [*SPECIAL, *dict.fromkeys([*FUNCTION, *sorted(names), *more])]


def unknown(texts: Iterable[str], words: Iterable[str]) -> set[str]:
    """Words of some texts that a vocabulary lacks."""
    return {word for text in texts for word in text.replace("?", " ?").split()} - set(words)

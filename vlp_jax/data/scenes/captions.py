"""What is said of a scene: several phrasings, each of which names everything in it.

The file exists so that every caption is true of its picture and false of one with other objects.
"""

import numpy as np

from vlp_jax.data.scenes.layout import Scene
from vlp_jax.data.scenes.things import Thing
from vlp_jax.data.scenes.truths import OPPOSITE, between, position
from vlp_jax.data.scenes.words import RELATIONS, at, counted, definite

_SHORT = ("a picture of {}", "an image of {}", "a photo of {}", "this picture shows {}")
_LONG = ("here we see {}", "you see {}", "there {be} {}", "this is a picture with {}")


def _all_kinds(scene: Scene, rng: np.random.Generator) -> list[Thing]:
    """The kinds in a random order."""
    kinds = list(scene.counts)
    return [kinds[i] for i in rng.permutation(len(kinds))]


def listed(scene: Scene, rng: np.random.Generator) -> str:
    """'two dogs and a pizza'."""
    return " and ".join(counted(k, scene.counts[k]) for k in _all_kinds(scene, rng))


def _related(scene: Scene, rng: np.random.Generator) -> str:
    """'a dog above two stars and a key left of the dog'; '' where no two kinds are related."""
    first, *rest = _all_kinds(scene, rng)
    text, known = counted(first, scene.counts[first]), [first]
    said = 0
    for kind in rest:
        told = counted(kind, scene.counts[kind])
        pairs = [(other, between(scene, kind, other)) for other in known]
        pairs = [(other, relation) for other, relation in pairs if relation]
        if not pairs:
            text = f"{text} and {told}"
        else:
            other, relation = pairs[rng.integers(len(pairs))]
            if len(known) == 1:  # the first is not yet known as "the"
                text = f"{text} {_phrase(OPPOSITE[relation], rng)} {told}"
            else:
                there = _phrase(relation, rng)
                text = f"{text} and {told} {there} {definite(other, scene.counts[other])}"
            said += 1
        known.append(kind)
    return text if said else ""


def _phrase(relation: str, rng: np.random.Generator) -> str:
    return RELATIONS[relation][rng.integers(2)]


def _where(scene: Scene, rng: np.random.Generator) -> str:
    """'a dog in the top left and two stars', those with a place first, so that it is read as theirs
    alone; '' where no single object has a clear place."""
    parts, others = [], []
    for kind in _all_kinds(scene, rng):
        placed = [one for one in scene.objects if one.thing == kind]
        place = position(placed[0]) if len(placed) == 1 else None
        told = counted(kind, len(placed))
        if place:
            parts.append(f"{told} {at(place, bool(rng.integers(2)))}")
        else:
            others.append(told)
    return " and ".join(parts + others) if parts else ""


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Three to five different captions; the first is the plain list of what is there."""
    short, long = _SHORT[rng.integers(len(_SHORT))], _LONG[rng.integers(len(_LONG))]
    plain, other, third = (listed(scene, rng) for _ in range(3))
    verb = "is" if third.startswith(("a ", "an ")) else "are"
    found = [plain, short.format(other), long.format(third, be=verb)]
    found += [_related(scene, rng), _where(scene, rng)]
    return list(dict.fromkeys(text for text in found if text))

"""What is true of where objects lie, with a margin: relations and positions by their boxes.

The file exists so that captions, questions and dialogues never say what one would argue about.
"""

from vlp_jax.data.scenes.layout import CANVAS, Placed, Scene
from vlp_jax.data.scenes.things import Thing

MARGIN = 16  # pixels between centres
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_AXIS = {"left": (1, -1), "right": (1, 1), "above": (0, -1), "below": (0, 1)}
_LOW, _NEAR = 0.38, 0.06  # below: top or left; this near the half: middle


def along(relation: str, one: Placed, other: Placed) -> float:
    """How many pixels the centre of `one` lies from that of `other` in the relation's direction."""
    axis, sign = _AXIS[relation]
    return sign * (one.centre[axis] - other.centre[axis])


def holds(relation: str, one: Placed, other: Placed) -> bool:
    """Whether `one` is left of (right of, above, below) `other`: at least MARGIN that way, and
    farther that way than sideways."""
    axis, _ = _AXIS[relation]
    sideways = abs(one.centre[1 - axis] - other.centre[1 - axis])
    return along(relation, one, other) >= MARGIN and along(relation, one, other) > sideways


def between(scene: Scene, one: Thing, other: Thing) -> str | None:
    """The relation that every object of one kind has to every one of another, if any."""
    ones = [placed for placed in scene.objects if placed.thing == one]
    others = [placed for placed in scene.objects if placed.thing == other]
    for relation in OPPOSITE:
        if all(holds(relation, a, b) for a in ones for b in others):
            return relation
    return None


def _third(value: float, names: tuple[str, str]) -> str | None:
    share = value / CANVAS
    if share < _LOW or share > 1 - _LOW:
        return names[share > 0.5]
    return "" if abs(share - 0.5) <= _NEAR else None


def position(placed: Placed) -> str | None:
    """'top left', 'top', ..., 'middle' of the canvas; None where it is between."""
    y, x = placed.centre
    row, column = _third(y, ("top", "bottom")), _third(x, ("left", "right"))
    if row is None or column is None:
        return None
    return f"{row} {column}".strip() or "middle"


def singles(scene: Scene) -> list[Placed]:
    """The objects that are the only ones of their kind."""
    return [placed for placed in scene.objects if scene.counts[placed.thing] == 1]

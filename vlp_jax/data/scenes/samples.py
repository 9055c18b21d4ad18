"""The samples of every split, by their number: what the tars hold.

The file exists so that a sample depends on nothing but (options, split, number).
"""

import functools
from typing import Any

import numpy as np

from vlp_jax.data.scenes import layout
from vlp_jax.data.scenes.captions import captions, listed
from vlp_jax.data.scenes.draw import Drawn, draw, png
from vlp_jax.data.scenes.flood import edges
from vlp_jax.data.scenes.layout import QUESTIONS, Scene
from vlp_jax.data.scenes.options import Options
from vlp_jax.data.scenes.questions import Question, conversation, questions
from vlp_jax.data.source import Example

SPLITS = ("train", "val", "test", "noisy", "vqa-train", "vqa-test")
MOST_CLASSES = 255  # that a uint8 map tells apart beside the canvas


def size_of(options: Options, split: str) -> int:
    """The samples of a split."""
    return getattr(options, split.replace("-", "_"))


def _asked(options: Options, scene: Scene) -> list[Question]:
    rng = layout.stream(options, scene.split, scene.number, "questions")
    return questions(scene, rng, layout.kinds_of(options))


@functools.lru_cache(64)
def _picture(options: Options, split: str, number: int) -> bytes:
    return png(draw(layout.scene(options, split, number)).picture)


def told(options: Options, split: str, number: int) -> list[str]:
    """The true captions of a scene; each of a scene that is drawn in either style tells it or
    not."""
    rng = layout.stream(options, split, number, "captions")
    scene = layout.scene(options, split, number)
    found = captions(scene, rng)
    if options.styles == "apart":
        return found
    return [text + f" in {scene.style} style" * bool(rng.integers(2)) for text in found]


def _objects(scene: Scene, drawn: Drawn, classes: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "name": placed.thing.name,
            "class": classes[placed.thing.key],
            **({"tint": placed.thing.tint} if placed.thing.tint else {}),
            "count": scene.counts[placed.thing],
            "box": list(placed.box),
            "area": int((drawn.instances == number).sum()),
        }
        for number, placed in enumerate(scene.objects, 1)
    ]


def scene_sample(options: Options, split: str, number: int) -> Example:
    """A scene with all that is known of it: captions, objects, questions, a conversation; maps."""
    scene = layout.scene(options, split, number)
    drawn, rng = draw(scene), layout.stream(options, split, number, "answers")
    classes = {kind.key: i for i, kind in enumerate(layout.kinds_of(options), 1)}
    asked, text = _asked(options, scene), told(options, split, number)
    meta = {
        **{"captions": text, "objects": _objects(scene, drawn, classes)},
        **{"questions": [question.record(rng) for question in asked]},
        **{"conversations": conversation(listed(scene, rng), asked), "style": scene.style},
    }
    if options.tints:  # labels of the first object
        names = [kind.name for kind in layout.kinds_of(options)]
        first = meta["objects"][0]
        meta |= {"kind": names[first["class"] - 1], "tint": first.get("tint", "own")}
    members = {"edge.png": png(edges(drawn.picture)), "instance.png": png(drawn.instances)}
    if len(classes) <= MOST_CLASSES:
        table = np.asarray([0, *(one["class"] for one in meta["objects"])], np.uint8)
        members["seg.png"] = png(table[drawn.instances])
    key = f"{number:06d}"
    return {
        **{"key": key, "image": png(drawn.picture), "text": text, "meta": meta},
        "members": members,
    }


@functools.lru_cache(4)
def _wrong(options: Options) -> frozenset[int]:
    """The noisy scenes with captions of another: the share asked for, to the nearest one."""
    order = layout.stream(options, "noisy", 0, "wrong").permutation(options.noisy)
    return frozenset(order[: round(options.wrong * options.noisy)].tolist())


def _stranger(options: Options, number: int) -> int | None:
    """Another noisy scene, which shows something that this one does not; None after 1,000 draws."""
    kinds = layout.contents(options, "noisy")
    rng = layout.stream(options, "noisy", number, "stranger")
    for other in rng.integers(options.noisy, size=1000).tolist():
        if any(all(one.apart(mine) for mine in kinds[number]) for one in kinds[other]):
            return other
    return None


def noisy_sample(options: Options, split: str, number: int) -> Example:
    """A scene with captions, which in a share of all are another's: {"clean", "right_captions"}."""
    right = told(options, split, number)
    other = _stranger(options, number) if number in _wrong(options) else None
    text = right if other is None else told(options, split, other)
    meta = {"captions": text, "clean": other is None, "right_captions": right}
    picture = _picture(options, split, number)
    return {"key": f"{number:06d}", "image": picture, "text": text, "meta": meta}


def question_sample(options: Options, split: str, number: int) -> Example:
    """One question: {"question", "answers", "answer", "question_type", "answer_type", "scene"}."""
    of, (at, which) = split.removeprefix("vqa-"), divmod(number, QUESTIONS)
    asked = _asked(options, layout.scene(options, of, at))
    rng = layout.stream(options, of, number, "vqa answers")
    meta = {**asked[which].record(rng), "scene": f"{at:06d}"}
    picture = _picture(options, of, at)
    return {"key": f"{number:06d}", "image": picture, "text": [], "meta": meta}


def sample(options: Options, split: str, number: int) -> Example:
    """Sample `number` of a split, as data/source.py says."""
    maker = {"noisy": noisy_sample, "vqa-train": question_sample, "vqa-test": question_sample}
    return maker.get(split, scene_sample)(options, split, number)

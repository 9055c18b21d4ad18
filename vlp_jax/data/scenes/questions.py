"""What is asked of a scene: one question of each kind that has one clear answer, with ten answers.

In VQAv2's form (arXiv:1612.00837): question_type is how it begins, answer_type yes/no, number or
other. Yes and no alternate from scene to scene. The file exists so that a question can be answered
from its picture alone, and hardly without it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vlp_jax.data.scenes.layout import QUESTIONS, Placed, Scene
from vlp_jax.data.scenes.things import Thing
from vlp_jax.data.scenes.truths import OPPOSITE, along, between, holds, position, singles
from vlp_jax.data.scenes.words import NUMBERS, RELATIONS, at, counted, definite

ANSWERS = 10
_DISSENT = 4  # fewer of the ten answers are another true one


class Question(NamedTuple):
    """others: further true answers; sentence: the answer in full, for dialogues."""

    question: str
    question_type: str
    answer_type: str
    answer: str
    others: tuple[str, ...]
    sentence: str

    def record(self, rng: np.random.Generator) -> dict:
        """As plain values; the most frequent of the ten answers comes first."""
        few = int(rng.integers(_DISSENT)) if self.others else 0
        answers = [self.answer] * (ANSWERS - few)
        answers += [self.others[i] for i in rng.integers(len(self.others) or 1, size=few)]
        return {
            **{"question": self.question, "answers": answers, "answer": self.answer},
            **{"question_type": self.question_type, "answer_type": self.answer_type},
        }


def _there(scene: Scene, rng: np.random.Generator, kinds: tuple[Thing, ...]) -> Iterator[Question]:
    present = list(scene.counts)
    if scene.number % 2:
        kind = present[rng.integers(len(present))]
        count = scene.counts[kind]
        sentence = f"yes there {'is' if count == 1 else 'are'} {counted(kind, count)}"
    else:
        kind = kinds[rng.integers(len(kinds))]
        while not all(kind.apart(other) for other in present):
            kind = kinds[rng.integers(len(kinds))]
        sentence = f"no there is no {kind.name}"
    forms = (
        ("is there {} ?", "is there"),
        ("is there {} in the picture ?", "is there"),
        ("do you see {} ?", "do you"),
    )
    text, begins = forms[rng.integers(3)]
    answer = sentence.split()[0]
    yield Question(text.format(kind.one), begins, "yes/no", answer, (), sentence)


def _how_many(scene: Scene, rng: np.random.Generator, things: bool) -> Question:
    """Of all things, or of one kind, where there are several of one."""
    present = scene.counts
    several = [kind for kind, count in present.items() if count > 1] or list(present)
    kind, total = several[rng.integers(len(several))], len(scene.objects)
    if things:
        what = ("things", "objects")[rng.integers(2)]
        noun, count = (what if total > 1 else what[:-1]), total
    else:
        what, count = kind.plural, present[kind]
        noun = kind.plural if count > 1 else kind.name
    text = (f"how many {what} are there ?", f"how many {what} do you see ?")[rng.integers(2)]
    sentence = f"there {'is' if count == 1 else 'are'} {NUMBERS[count]} {noun}"
    return Question(text, "how many", "number", str(count), (NUMBERS[count],), sentence)


def _what_beside(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """Of what alone lies in a direction of a single object: nothing else is that way at all."""
    found: list[tuple[Placed, str, Placed]] = []
    for other in singles(scene):
        for relation in OPPOSITE:
            rest = [one for one in scene.objects if one is not other]
            near = [one for one in rest if along(relation, one, other) > 0]
            if len(near) == 1 and holds(relation, near[0], other):
                found.append((near[0], relation, other))
    if found:
        one, relation, other = found[rng.integers(len(found))]
        there = f"{RELATIONS[relation][rng.integers(2)]} {definite(other.thing, 1)}"
        kind = one.thing
        sentence = f"{kind.one} is {there}"
        yield Question(f"what is {there} ?", "what is", "other", kind.name, (kind.one,), sentence)


def _where(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    clear = [(one, position(one)) for one in singles(scene)]
    clear = [(one, place) for one, place in clear if place]
    if clear:
        one, place = clear[rng.integers(len(clear))]
        named = definite(one.thing, 1)
        sides = tuple(place.split()) if " " in place else ()
        sentence = f"{named} is {at(place)}"
        yield Question(f"where is {named} ?", "where is", "other", place, sides, sentence)


def _what_there(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """Of what alone is near a corner; all places must be clear."""
    places = [position(one) for one in scene.objects]
    if None in places:
        return
    corners = [i for i, place in enumerate(places) if " " in place and places.count(place) == 1]
    if corners:
        which = corners[rng.integers(len(corners))]
        kind, there = scene.objects[which].thing, at(places[which], bool(rng.integers(2)))
        sentence = f"{kind.one} is {there}"
        yield Question(f"what is {there} ?", "what is", "other", kind.name, (kind.one,), sentence)


def _is_beside(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    kinds = list(scene.counts)
    pairs = [(a, b, between(scene, a, b)) for a in kinds for b in kinds if a != b]
    pairs = [pair for pair in pairs if pair[2]]
    if pairs:
        one, other, relation = pairs[rng.integers(len(pairs))]
        yes = scene.number // 2 % 2 == 0
        asked = relation if yes else OPPOSITE[relation]
        there = RELATIONS[asked][rng.integers(2)]
        counts = scene.counts[one], scene.counts[other]
        subject, to = definite(one, counts[0]), definite(other, counts[1])
        be, answer = ("is" if counts[0] == 1 else "are"), ("yes" if yes else "no")
        sentence = f"{answer} {subject} {be} {RELATIONS[relation][0]} {to}"
        text = f"{be} {subject} {there} {to} ?"
        yield Question(text, f"{be} the", "yes/no", answer, (), sentence)


def _what_shown(scene: Scene) -> Iterator[Question]:
    """Of the one kind that there is."""
    (kind, count), *more = scene.counts.items()
    if not more:
        answer, other = (kind.name, kind.one) if count == 1 else (kind.plural, kind.name)
        sentence = f"there {'is' if count == 1 else 'are'} {counted(kind, count)}"
        yield Question("what do you see ?", "what do", "other", answer, (other,), sentence)


def questions(scene: Scene, rng: np.random.Generator, kinds: tuple[Thing, ...]) -> list[Question]:
    """Three to six questions in a random order; kinds: all there are, for what is not there."""
    things = bool(rng.random() < 0.3)
    found = [*_there(scene, rng, kinds), *_what_shown(scene), _how_many(scene, rng, things)]
    makers = (_what_beside, _where, _what_there, _is_beside)
    found += [question for make in makers for question in make(scene, rng)]
    if len(found) < QUESTIONS:
        found.append(_how_many(scene, rng, not things))
    return [found[i] for i in rng.permutation(len(found))]


def conversation(listed: str, asked: list[Question]) -> list[dict[str, str]]:
    """LLaVA's form of a dialogue (arXiv:2304.08485): what there is, then the questions, answered in
    full; '<image>' stands for the picture."""
    turns = [("<image>\nwhat is in the picture ?", f"there {_be(listed)} {listed}")]
    turns += [(question.question, question.sentence) for question in asked]
    return [
        {"from": who, "value": text}
        for turn in turns
        for who, text in zip(("human", "gpt"), turn, strict=True)
    ]


def _be(listed: str) -> str:
    return "is" if listed.startswith(("a ", "an ")) else "are"

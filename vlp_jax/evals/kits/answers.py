"""How a free answer to a question is compared with those of ten people (VQA, arXiv:1505.00468).

Rules: the evaluation code of the authors (GT-Vision-Lab/VQA at a013f00), to the letter: some are
odd, and a rule that is mended gives other numbers than the published ones. The file exists so that
the rule is written once.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # their flag re.UNICODE stands where the number of replacements belongs
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(n) for n, word in enumerate(_DIGITS)}
_ARTICLES = {"a", "an", "the"}
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't "
    "she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd "
    "someone'd've someone'll someone's something'd something'd've something'll that's there'd "
    "there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've "
    "who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll "
    "y'all'd've you'd you'd've you'll you're you've"
)


def _restored() -> dict[str, str]:
    """{word without one of its apostrophes: the word}; dont: don't, couldnt've: couldn't've."""
    marks = (
        (word, i)
        for word in _CONTRACTIONS.split()
        for i, letter in enumerate(word)
        if letter == "'"
    )
    return {word[:i] + word[i + 1 :]: word for word, i in marks}


_RESTORED = _restored() | {"somebody'd": "somebodyd"}  # the last: as it is there


def tidy(text: str) -> str:
    """Line ends and tabs as spaces, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=2**16)
def normalise(text: str) -> str:
    """An answer without punctuation, articles and capitals, its numbers up to ten as digits.

    A mark that touches a space anywhere in the text is left out, another becomes a space; all are
    left out where a comma stands between digits.

    >>> normalise("The Red, bus."), normalise("one-way"), normalise("dont know")
    ('red bus', '1 way', "don't know")
    """
    whole = bool(_NUMBER.search(text))
    out = text
    for mark in _MARKS:
        beside = whole or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside else " ")
    out = _PERIOD.sub("", out, count=_MOST_PERIODS)
    words = (_NUMBERS.get(word, word) for word in out.lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The mean over the people of min(1, others who say the same / 3), in [0, 1]; of ten: 0, .3,
    .6, .9, 1 for 0, 1, 2, 3, 4 or more of them.

    Where all people say the very same, the prediction is compared with it as it is, capitals too.

    Raises:
      ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to compare with")
    prediction, answers = tidy(prediction), [tidy(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    same = [answer == prediction for answer in answers]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)

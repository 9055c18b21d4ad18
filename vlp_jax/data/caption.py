"""Which words an example shows this time: caption choice, templates, word dropout.

The file exists so that text augmentation is a pure function of the example and its named random
streams, which themselves come from (seed, epoch, position).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.encoding import BadText, decode
from vlp_jax.data.source import Example, member, texts_of

MAX_CHARACTERS = 10_000
CHOICES = ("random", "first", "all")  # anything else names a JSON key


@dataclass(frozen=True)
class CaptionSpec:
    """choice: 'random', 'first', 'all' (joined by a space) or the name of a JSON key holding
    text(s).

    templates: strings with '{c}' for the caption, one is drawn per example; word_dropout:
    probability in [0, 1) that a word is left out (one word always stays). member: a further file
    of the sample that is its one text instead.
    """

    choice: str = "random"
    templates: tuple[str, ...] = ()
    word_dropout: float = 0.0
    member: str = ""

    def texts(self, example: Example) -> list[str]:
        """Every text that an example may show, before dropout and templates; may be empty. Raises
        DamagedSample."""
        if not self.member:
            return candidates(example, self.choice)
        try:
            return texts_of(decode(member(example, self.member)))
        except BadText as error:
            raise DamagedSample("bad_text") from error


def candidates(example: Example, choice: str) -> list[str]:
    """Every text that `choice` may give for an example, before dropout and templates; may be
    empty. Raises DamagedSample as `texts_of`, and 'boolean_text' for true or false, which say
    neither yes nor no."""
    if choice == "all":
        return [" ".join(example["text"])] if example["text"] else []
    if choice in ("random", "first"):
        return example["text"][: 1 if choice == "first" else None]
    value: Any = example["meta"].get(choice)
    values = value if isinstance(value, list) else [value]
    if any(isinstance(v, bool) for v in values):
        raise DamagedSample("boolean_text")
    return texts_of([str(v) for v in values if isinstance(v, str | int | float)])


def choose_caption(
    example: Example,
    spec: CaptionSpec,
    stream: Callable[[str], np.random.Generator],
    clipped: Counter | None = None,
    blank: Callable[[str], bool] = lambda text: False,
) -> str:
    """The text of one example. Raises DamagedSample('no_caption') where there is none, and
    'empty_caption' where it is `blank`, once cleaned.

    `stream` gives a generator for each of 'caption', 'word_dropout' and 'template'. Captions above
    10,000 characters are cut there and counted under 'long_caption' in `clipped`.
    """
    texts = spec.texts(example)
    if not texts:
        raise DamagedSample("no_caption")
    drawn = spec.choice not in ("first", "all") and not spec.member
    text = texts[int(stream("caption").integers(len(texts))) if drawn else 0]
    if blank(text):
        raise DamagedSample("empty_caption")
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS]
        if clipped is not None:
            clipped["long_caption"] += 1
    if spec.word_dropout > 0:
        words = text.split()
        draws = stream("word_dropout").random(len(words))
        kept = [w for w, u in zip(words, draws, strict=True) if u >= spec.word_dropout]
        text = " ".join(kept or words[:1])
    if spec.templates:
        number = int(stream("template").integers(len(spec.templates)))
        text = spec.templates[number].replace("{c}", text)
    return text

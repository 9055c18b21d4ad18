"""Texts that a model writes for pictures, or after prompts alone, how likely it holds given ones,
and whether one belongs to a picture: what `Model.generate`, `Model.score`, `Model.match` and the
command `generate` do.

The file exists so that a command and a notebook write the same texts.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.embed import Batching
from vlp_jax.api.pictures import check_list, check_texts, read_numbered
from vlp_jax.api.placement import fill, runner
from vlp_jax.api.prompts import check_prompts, readable, stop_ids
from vlp_jax.core.errors import UserError, count_of
from vlp_jax.core.fields import Field, told_too
from vlp_jax.core.inputs import Vars
from vlp_jax.data.text.rows import check_whole
from vlp_jax.methods.base import Function

WRITERS = {"generate_text": "prompt", "generate_answer": "text"}  # function: the text it reads
SCORERS = {"loglik": ("prompt", "texts"), "answer_loglik": ("text", "answers")}  # and those scored
BUCKETS = (1, 4, *(2**i for i in range(3, 20)))  # tokens of prompts, each a program


class Made(NamedTuple):
    """A text: its ids without prompt and stop id, and its score (decoding/how.py)."""

    text: str
    score: float
    ids: list[int]


def generate(
    model: Any,
    pictures: Iterable[Any] | None = None,
    prompt: str | Sequence[str] = "",
    seed: int = 0,
    batching: Batching | None = None,
    *,
    stop: Sequence[str] = (),
    skip_damaged: bool = False,
    **how: Any,
) -> list[list[Made] | None]:
    """`returned` texts (default 1) for each picture, of a language model alone for each prompt: of
    beams the best, best first, or as drawn.

    Args:
      pictures: paths, Pillow pictures or uint8[H, W, 3]; None for a language model alone.
      prompt: one for all, or as many as pictures.
      seed: of what is drawn; each picture draws by its number.
      stop: words of one token each that end a text, beside the model's own end.
      skip_damaged: None for a picture that cannot be read.
      how: fields of decoding/how.py Writing.

    Raises:
      UserError: a model that writes nothing, a question that is empty, another number of prompts,
        one that is too long, options that do not go together, a stop that is no token, a picture
        that cannot be read.
    """
    listed = None if pictures is None else list(check_list(pictures, "pictures"))
    prompts = _prompts(prompt, None if listed is None else len(listed))
    batching, made = batching or Batching(), {}
    writer = Writer(model, how, min(batching.size, len(prompts)), stop)
    writer.check(prompts, listed is not None)
    for some in _chunks(range(len(prompts)), batching.size):
        seen = readable(model, listed, some, skip_damaged) if listed else dict.fromkeys(some)
        if seen:
            numbers = [number_of(b"%d" % i, seed) for i in seen]
            image = np.stack(list(seen.values())) if listed else None
            texts = writer(image, [prompts[i] for i in seen], numbers)
            made |= dict(zip(seen, texts, strict=True))
        batching.told(len(some))
    return [made.get(i) for i in range(len(prompts))]


def score(
    model: Any, pictures: Iterable[Any], texts: Sequence[str], prompt: str | Sequence[str] = ""
) -> np.ndarray:
    """float32[N, K]: see Model.score."""
    name, function = _function(model, SCORERS, "scores no texts")
    listed, texts = list(check_list(pictures, "pictures")), check_texts(texts)
    (read, scored), prompts = SCORERS[name], _prompts(prompt, len(listed))
    asked = _Asked(model, function.reads, read)
    arrays = model.text_arrays(function.reads[scored], scored)
    asked.check(prompts)
    for one in filter(None, dict.fromkeys(prompts)):
        check_whole(model.tokenizer(), one)
    if not texts or not listed:
        return np.zeros((len(listed), len(texts)), np.float32)
    given = asked.beside(function.places, prompts, arrays(texts), scored)
    arrays.tell()
    found = []
    run = runner(model.method, name, Vars(model.params, model.extra), model.mesh)
    size = min(Batching().size, len(listed))
    for some in _chunks(range(len(listed)), size):
        image = np.stack([read_numbered(model.decode, (i, listed[i])) for i in some])
        batch = {"image": image, **asked([prompts[i] for i in some])}
        batch |= {k: np.repeat(a[None], len(some), axis=0) for k, a in given.items()}
        batch = {k: fill(a, size) for k, a in batch.items()}
        found.append(run(batch, {"first": 0})[: len(some)])
    return np.concatenate(found)


def match(model: Any, pictures: Iterable[Any], texts: Sequence[str]) -> np.ndarray:
    """float32[N]: see Model.match."""
    listed, texts = list(check_list(pictures, "pictures")), check_texts(texts)
    matcher = Matcher(model)
    if len(listed) != len(texts):
        raise UserError(f"match: {len(texts)} texts for {len(listed)} pictures; give one of each")
    found = []
    for some in _chunks(range(len(listed)), Batching().size):
        image = np.stack([read_numbered(model.decode, (i, listed[i])) for i in some])
        found.append(matcher(matcher.see(image), [texts[i] for i in some]))
    matcher.arrays.tell()
    return np.concatenate(found) if found else np.zeros(0, np.float32)


class Writer:
    """A model that writes, in one way: texts for each picture of a batch.

    Attributes:
      arrays: texts -> ids, which counts those that are cut.

    Args:
      how: fields of decoding/how.py Writing. size: rows that every batch is filled up to. stop: see
        `generate`.

    Raises:
      UserError: the model writes nothing, options that do not go together, a stop that is no token.
    """

    def __init__(self, model: Any, how: Mapping[str, Any], size: int, stop: Sequence[str] = ()):
        self.model, self.size = model, size
        self._name, self._function = _function(model, WRITERS, "writes no texts")
        options = self._function.options(how, "generate")
        ends = stop_ids(model.tokenizer(), stop) if stop else ()
        self._how = dataclasses.replace(options, stop=(*options.stop, *ends))
        self._asked = _Asked(model, self._function.reads, WRITERS[self._name])
        self._run = runner(model.method, self._name, Vars(model.params, model.extra), model.mesh)
        self.arrays = self._asked.arrays

    def check(self, prompts: Sequence[str], pictures: bool = True) -> None:
        """Raises UserError where a question is empty, a prompt longer than there is room, or there
        are `pictures` and the model sees none, or the other way round."""
        sees = "image" in self._function.reads
        if pictures != sees:
            what = "writes about pictures; give some" if sees else "sees no pictures; give prompts"
            raise UserError(f"{self.model.path}: {what}")
        self._asked.check(prompts)
        self._asked.room = check_prompts(self.model, self._function, prompts, self._how.max_new)

    def __call__(
        self, image: np.ndarray | None, prompts: Sequence[str], numbers: Sequence[int]
    ) -> list[list[Made]]:
        """Texts of uint8[b, S, S, 3], or of prompts alone, `returned` of each; it draws by its
        number, below 2^31."""
        batch, index = self._asked(prompts), np.array(numbers, np.int32)
        batch |= {} if image is None else {"image": image}
        batch = {k: fill(a, self.size) for k, a in batch.items()}
        out = self._run(batch, self._how, fill(index, self.size))
        decode = self.model.tokenizer().decode

        def made(ids: np.ndarray, length: int, score: float) -> Made:
            words = ids[:length].tolist()
            return Made(decode(words), float(score), words)

        rows = (out[key][: len(prompts)] for key in ("ids", "length", "score"))
        return [list(map(made, *row)) for row in zip(*rows, strict=True)]


class Matcher:
    """A model that says whether a picture and a text belong together.

    Attributes:
      arrays: texts -> ids, which counts those that are cut.

    Args:
      size: rows that every batch is filled up to; 0: as they come.

    Raises:
      UserError: the model has no such head.
    """

    def __init__(self, model: Any, size: int = 0):
        functions = model.method.functions()
        if "match" not in functions:
            raise UserError(f"{model.path}: its method has no head that matches pictures and texts")
        self.size = size
        apart = {"image_states", "rematch"} <= functions.keys()
        self._steps = ("image_states", "rematch") if apart else ("image", "match")
        v = Vars(model.params, model.extra)
        names = [name for name in self._steps if name in functions]
        self._run = {name: runner(model.method, name, v, model.mesh) for name in names}
        self.arrays = model.text_arrays(functions["match"].reads["text"])

    def see(self, image: np.ndarray) -> np.ndarray:
        """What a text is held against of uint8[b, S, S, 3]: the states of the pictures, or where
        the method gives none the pictures."""
        first, _ = self._steps
        return self._filled(first, {"image": image}) if first in self._run else image

    def __call__(self, seen: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """float32[b], probabilities; seen: of `see`, a row for each text."""
        name, last = self._steps
        logits = self._filled(last, {name: seen, **self.arrays(list(texts))})
        return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))

    def _filled(self, name: str, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """A function on a batch that is filled up."""
        count = len(next(iter(batch.values())))
        size = max(self.size, count)
        return self._run[name]({key: fill(rows, size) for key, rows in batch.items()})[:count]


class _Asked:
    """Prompts or questions as the fields that a function reads them by.

    Attributes:
      arrays: see Writer. room: tokens of one at most. told: the same of further fields of them.
    """

    def __init__(self, model: Any, reads: Mapping[str, Field], name: str):
        field = reads[name]
        self.arrays, self.room = model.text_arrays(field, name), field.length
        others = told_too(reads, name).items()
        self.told = {other: model.text_arrays(field, other) for other, field in others}
        self._path, self._optional, self._name = model.path, field.optional, name
        self._ends = not field.open

    def check(self, prompts: Sequence[str]) -> None:
        """Raises UserError where a question is empty, or too long for a further field."""
        for name, arrays in self.told.items():
            arrays(list(prompts))
            if arrays.cut:
                most = f"{name} has {arrays.length} tokens"
                raise UserError(f"prompt: {count_of(arrays.cut, 'text')} too long; {most}")
        if not self._optional and not all(prompt.strip() for prompt in prompts):
            what = "begins no text by itself" if self._name == "prompt" else "answers questions"
            raise UserError(f"{self._path}: {what}; give a prompt")

    def __call__(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Their arrays; none where none says anything and none needs to."""
        texts, found = list(prompts), {}
        for name, arrays in self.told.items():
            found |= _bucket(arrays(texts), name)
        if self._optional and not any(texts):
            return found
        own = self.arrays(texts)
        if self._optional and self._ends:  # one that says nothing is none in any company
            own[f"{self._name}_mask"] &= np.array([[bool(text)] for text in texts])
        return found | _bucket(own, self._name, self.room)

    def beside(
        self, places: int, prompts: Sequence[str], texts: dict[str, np.ndarray], name: str
    ) -> dict[str, np.ndarray]:
        """Arrays of texts that are scored, cut as `_bucket` does; they and the prompts that they
        follow, which share a model's places (0: it does not say how many), leave each other room.
        Raises UserError: too many."""
        if not places:
            return _bucket(texts, name)
        longest, begun = int(texts[f"{name}_mask"].sum(1).max()), 1
        if self._optional and any(prompts):
            begun = int(self.arrays(list(prompts))[f"{self._name}_mask"].sum(1).max())
        if longest - 1 + begun > places:
            said = f"one of {longest - 1} tokens after {count_of(begun, 'token')}"
            raise UserError(f"{name}: {said} is more than the model's {places} places")
        found = _bucket(texts, name, places - begun + 1)
        if self._optional:
            self.room = places - found[name].shape[1] + 1
        return found


def _function(model: Any, known: Mapping[str, Any], lacks: str) -> tuple[str, Function]:
    """(name, function), the first of `known` that the method has. Raises UserError: none."""
    functions = model.method.functions()
    for name in known:
        if name in functions:
            return name, functions[name]
    raise UserError(f"{model.path}: its method {model.config['method']['name']!r} {lacks}")


def number_of(data: bytes, seed: int) -> int:
    """A number below 2^31 of what says which text it is, and a seed of any size."""
    person = b"%d" % seed
    person = person if len(person) <= 16 else hashlib.blake2b(person, digest_size=16).digest()
    digest = hashlib.blake2b(data, digest_size=4, person=person).digest()
    return int.from_bytes(digest, "little") >> 1


def _prompts(prompt: str | Sequence[str], count: int | None) -> list[str]:
    """As many as pictures; None: as they are. Raises UserError for another number, or what is no
    text."""
    given = [prompt] if isinstance(prompt, str) else prompt
    prompts = check_texts(given, "prompt")
    if count is None:
        return prompts
    prompts = prompts * count if isinstance(prompt, str) else prompts
    if len(prompts) != count:
        raise UserError(f"prompt: {len(prompts)} for {count} pictures; give one of each")
    return prompts


def _bucket(arrays: dict[str, np.ndarray], name: str, room: int = 2**31) -> dict[str, np.ndarray]:
    """Texts cut to the least bucket that holds the longest of them, and to `room` tokens."""
    longest = int(arrays[f"{name}_mask"].sum(1).max())
    most = arrays[name].shape[1]
    length = min([most, room, *(bucket for bucket in BUCKETS if bucket >= longest)])
    return {key: array[:, :length] for key, array in arrays.items()}


def _chunks(items: range, size: int) -> Iterator[range]:
    for at in range(0, len(items), size):
        yield items[at : at + size]

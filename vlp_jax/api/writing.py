"""Texts that a model writes for pictures, and whether a text belongs to one: what `Model.generate`,
`Model.match` and the command `generate` do.

The file exists so that a command and a notebook write the same texts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.embed import Batching
from vlp_jax.api.pictures import check_list, read_numbered
from vlp_jax.api.placement import fill, runner
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Vars

WRITERS = {"generate_text": "prompt", "generate_answer": "text"}  # function: the text it reads
BUCKETS = (1, 4, 8, 16, 32, 64)  # tokens of prompts, each a program
ROWS = 1 << 20  # keys of one seed


class Made(NamedTuple):
    """A text: its ids without prompt and stop id, and its score (decoding/how.py)."""

    text: str
    score: float
    ids: list[int]


def generate(
    model: Any,
    pictures: Iterable[Any],
    prompt: str | Sequence[str] = "",
    seed: int = 0,
    batching: Batching | None = None,
    **how: Any,
) -> list[Made]:
    """The best text for each picture.

    Args:
      pictures: paths, Pillow pictures or uint8[H, W, 3].
      prompt: one for all, or as many as pictures.
      seed: of what is drawn; each picture draws by its number.
      how: fields of decoding/how.py Writing.

    Raises:
      UserError: a model that writes nothing, a question that is empty, another number of prompts,
        options that do not go together, a picture that cannot be read.
    """
    listed = list(check_list(pictures, "pictures"))
    prompts = [prompt] * len(listed) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(listed):
        raise UserError(f"prompt: {len(prompts)} for {len(listed)} pictures; give one of each")
    batching = batching or Batching()
    writer = Writer(model, how, min(batching.size, len(listed)))
    writer.check(prompts)
    made: list[Made] = []
    for some in _chunks(range(len(listed)), batching.size):
        image = np.stack([read_numbered(model.decode, (i, listed[i])) for i in some])
        numbers = [(i + seed * ROWS) % 2**31 for i in some]
        made += writer(image, [prompts[i] for i in some], numbers)
        batching.told(len(some))
    writer.arrays.tell()
    return made


def match(model: Any, pictures: Iterable[Any], texts: Sequence[str]) -> np.ndarray:
    """float32[N]: see Model.match."""
    listed, texts = list(check_list(pictures, "pictures")), list(texts)
    matcher = Matcher(model)
    if len(listed) != len(texts):
        raise UserError(f"match: {len(texts)} texts for {len(listed)} pictures; give one of each")
    found = []
    for some in _chunks(range(len(listed)), Batching().size):
        image = np.stack([read_numbered(model.decode, (i, listed[i])) for i in some])
        found.append(matcher(image, [texts[i] for i in some]))
    matcher.arrays.tell()
    return np.concatenate(found) if found else np.zeros(0, np.float32)


class Writer:
    """A model that writes, in one way: one text for each picture of a batch.

    Attributes:
      arrays: texts -> ids, which counts those that are cut.

    Args:
      how: fields of decoding/how.py Writing. size: rows that every batch is filled up to.

    Raises:
      UserError: the model writes nothing, or options that do not go together.
    """

    def __init__(self, model: Any, how: Mapping[str, Any], size: int):
        self.model, self.size = model, size
        name, function = _writer(model)
        self._read = WRITERS[name]
        self._optional = function.reads[self._read].optional
        self._how = function.options(how, "generate")
        self._run = runner(model.method, name, Vars(model.params, model.extra), model.mesh)
        self.arrays = model.text_arrays(function.reads[self._read], self._read)

    def check(self, prompts: Sequence[str]) -> None:
        """Raises UserError where a question is empty."""
        if not self._optional and not all(prompt.strip() for prompt in prompts):
            raise UserError(f"{self.model.path}: answers questions; give a prompt")

    def __call__(
        self, image: np.ndarray, prompts: Sequence[str], numbers: Sequence[int]
    ) -> list[Made]:
        """Texts of uint8[b, S, S, 3]; each draws by its number, below 2^31."""
        batch = {"image": image}
        if any(prompts) or not self._optional:
            batch |= _bucket(self.arrays(list(prompts)), self._read)
        index = fill(np.array(numbers, np.int32), self.size)
        out = self._run({k: fill(a, self.size) for k, a in batch.items()}, self._how, index)
        made, decode = [], self.model.tokenizer().decode
        rows = (out[key][: len(image)] for key in ("ids", "length", "score"))
        for ids, length, score in zip(*rows, strict=True):
            words = ids[0, : length[0]].tolist()
            made.append(Made(decode(words), float(score[0]), words))
        return made


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
        self._run = runner(model.method, "match", Vars(model.params, model.extra), model.mesh)
        self.arrays = model.text_arrays(functions["match"].reads["text"])

    def __call__(self, image: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """float32[b], probabilities; image: uint8[b, S, S, 3]."""
        batch = {"image": image, **self.arrays(list(texts))}
        size = max(self.size, len(image))
        logits = self._run({name: fill(rows, size) for name, rows in batch.items()})[: len(image)]
        return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


def _writer(model: Any) -> tuple[str, Any]:
    """(name, function) of what a model writes with. Raises UserError: it writes nothing."""
    functions = model.method.functions()
    for name in WRITERS:
        if name in functions:
            return name, functions[name]
    raise UserError(f"{model.path}: its method {model.config['method']['name']!r} writes no texts")


def _bucket(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Texts cut to the least bucket that holds the longest of them."""
    longest = int(arrays[f"{name}_mask"].sum(1).max())
    most = arrays[name].shape[1]
    length = min([most, *(bucket for bucket in BUCKETS if bucket >= longest)])
    return {key: array[:, :length] for key, array in arrays.items()}


def _chunks(items: range, size: int) -> Iterator[range]:
    for at in range(0, len(items), size):
        yield items[at : at + size]

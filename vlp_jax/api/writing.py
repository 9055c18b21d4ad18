"""Texts that a model writes for pictures, how likely given ones are, and whether a text belongs to
a picture: what `Model.generate`, `Model.score`, `Model.match` and the command `generate` do.

The file exists so that a command and a notebook write the same texts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.embed import Batching
from vlp_jax.api.pictures import check_list, check_texts, read_numbered
from vlp_jax.api.placement import fill, runner
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Vars
from vlp_jax.methods.base import Function

WRITERS = {"generate_text": "prompt", "generate_answer": "text"}  # function: the text it reads
SCORERS = {"loglik": ("prompt", "texts"), "answer_loglik": ("text", "answers")}  # and those scored
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
    name, function = _function(model, WRITERS, "writes no texts")
    options = function.options(how, "generate")
    listed = list(check_list(pictures, "pictures"))
    run = runner(model.method, name, Vars(model.params, model.extra), model.mesh)
    tokenizer, made, batching = model.tokenizer(), [], batching or Batching()
    for some, batch in _asked(model, function, WRITERS[name], listed, prompt, batching.size):
        index = np.array([(i + seed * ROWS) % 2**31 for i in some], np.int32)
        out = run(batch, options, fill(index, len(batch["image"])))
        rows = (out[key][: len(some)] for key in ("ids", "length", "score"))
        for ids, length, score in zip(*rows, strict=True):
            words = ids[0, : length[0]].tolist()
            made.append(Made(tokenizer.decode(words), float(score[0]), words))
        batching.told(len(some))
    return made


def score(
    model: Any, pictures: Iterable[Any], texts: Sequence[str], prompt: str | Sequence[str] = ""
) -> np.ndarray:
    """float32[N, K]: see Model.score."""
    name, function = _function(model, SCORERS, "scores no texts")
    listed, texts = list(check_list(pictures, "pictures")), check_texts(texts)
    read, scored = SCORERS[name]
    run = runner(model.method, name, Vars(model.params, model.extra), model.mesh)
    arrays = model.text_arrays(function.reads[scored], scored)
    given = _bucket(arrays(texts), scored) if texts else {}
    arrays.tell()
    found = [np.zeros((0, len(texts)), np.float32)]
    for some, batch in _asked(model, function, read, listed, prompt, Batching().size):
        if texts:
            wide = {k: np.repeat(a[None], len(batch["image"]), axis=0) for k, a in given.items()}
            found.append(run(batch | wide, {"first": 0})[: len(some)])
    return np.concatenate(found) if texts else np.zeros((len(listed), 0), np.float32)


def match(model: Any, pictures: Iterable[Any], texts: Sequence[str]) -> np.ndarray:
    """float32[N]: see Model.match."""
    functions = model.method.functions()
    if "match" not in functions:
        raise UserError(f"{model.path}: its method has no head that matches pictures and texts")
    listed, texts = list(check_list(pictures, "pictures")), list(texts)
    if len(listed) != len(texts):
        raise UserError(f"match: {len(texts)} texts for {len(listed)} pictures; give one of each")
    run = runner(model.method, "match", Vars(model.params, model.extra), model.mesh)
    arrays, found = model.text_arrays(functions["match"].reads["text"]), []
    for some in _chunks(range(len(listed)), Batching().size):
        image = np.stack([read_numbered(model.decode, (i, listed[i])) for i in some])
        batch = {"image": image, **arrays([texts[i] for i in some])}
        logits = run(batch)
        found.append(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])))
    arrays.tell()
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def _function(model: Any, known: Mapping[str, Any], lacks: str) -> tuple[str, Any]:
    """(name, function), the first of `known` that the method has. Raises UserError: none."""
    functions = model.method.functions()
    for name in known:
        if name in functions:
            return name, functions[name]
    raise UserError(f"{model.path}: its method {model.config['method']['name']!r} {lacks}")


def _asked(
    model: Any,
    function: Function,
    read: str,
    listed: Sequence[Any],
    prompt: str | Sequence[str],
    most: int,
) -> Iterator[tuple[range, dict[str, np.ndarray]]]:
    """(numbers of some pictures, these with their prompts as the field `read`), all of one size.
    Raises UserError as `generate`."""
    prompts = [prompt] * len(listed) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(listed):
        raise UserError(f"prompt: {len(prompts)} for {len(listed)} pictures; give one of each")
    field = function.reads[read]
    if not field.optional and not all(p.strip() for p in prompts):
        raise UserError(f"{model.path}: answers questions; give a prompt")
    arrays, size = model.text_arrays(field, read), min(most, len(listed))
    for some in _chunks(range(len(listed)), most):
        batch = {"image": np.stack([read_numbered(model.decode, (i, listed[i])) for i in some])}
        if any(prompts[i] for i in some) or not field.optional:
            batch |= _bucket(arrays([prompts[i] for i in some]), read)
        yield some, {k: fill(a, size) for k, a in batch.items()}
    arrays.tell()


def _bucket(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Texts cut to the least bucket that holds the longest of them."""
    longest = int(arrays[f"{name}_mask"].sum(1).max())
    most = arrays[name].shape[1]
    length = min([most, *(bucket for bucket in BUCKETS if bucket >= longest)])
    return {key: array[:, :length] for key, array in arrays.items()}


def _chunks(items: range, size: int) -> Iterator[range]:
    for at in range(0, len(items), size):
        yield items[at : at + size]

"""Texts that a model writes for pictures, and whether a text belongs to one: what `Model.generate`,
`Model.match` and the command `generate` do.

The file exists so that a command and a notebook write the same texts.
"""

from collections.abc import Iterable, Iterator, Sequence
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
    name, function = _writer(model)
    options = function.options(how, "generate")
    listed = list(check_list(pictures, "pictures"))
    prompts = [prompt] * len(listed) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(listed):
        raise UserError(f"prompt: {len(prompts)} for {len(listed)} pictures; give one of each")
    read = WRITERS[name]
    if not function.reads[read].optional and not all(p.strip() for p in prompts):
        raise UserError(f"{model.path}: answers questions; give a prompt")
    run = runner(model.method, name, Vars(model.params, model.extra), model.mesh)
    arrays, tokenizer = model.text_arrays(function.reads[read], read), model.tokenizer()
    made: list[Made] = []
    batching = batching or Batching()
    for some in _chunks(range(len(listed)), batching.size):
        batch = {"image": np.stack([read_numbered(model.decode, (i, listed[i])) for i in some])}
        if any(prompts[i] for i in some) or not function.reads[read].optional:
            batch |= _bucket(arrays([prompts[i] for i in some]), read)
        index = np.array([(i + seed * ROWS) % 2**31 for i in some], np.int32)
        size = min(batching.size, len(listed))
        batch, index = {k: fill(a, size) for k, a in batch.items()}, fill(index, size)
        out = run(batch, options, index)
        rows = (out[key][: len(some)] for key in ("ids", "length", "score"))
        for ids, length, score in zip(*rows, strict=True):
            words = ids[0, : length[0]].tolist()
            made.append(Made(tokenizer.decode(words), float(score[0]), words))
        batching.told(len(some))
    arrays.tell()
    return made


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

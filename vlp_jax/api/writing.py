"""Texts that a model writes for pictures, and whether a text belongs to one: what `Model.generate`,
`Model.match` and the command `generate` do.

The file exists so that a command and a notebook write the same texts.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.embed import Batching
from vlp_jax.api.pictures import check_list, read_numbered
from vlp_jax.api.placement import fill, runner
from vlp_jax.core.errors import UserError, count_of
from vlp_jax.core.inputs import Vars
from vlp_jax.data.damage import DamagedSample

WRITERS = {  # function: the text it reads, the part that writes
    "generate_text": ("prompt", "text"),
    "generate_answer": ("text", "answer"),
}
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
    *,
    stop: Sequence[str] = (),
    skip_damaged: bool = False,
    **how: Any,
) -> list[Made | None]:
    """The best text for each picture.

    Args:
      pictures: paths, Pillow pictures or uint8[H, W, 3].
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
    name, function = _writer(model)
    options = function.options(how, "generate")
    options = dataclasses.replace(options, stop=(*options.stop, *_stops(model, stop)))
    listed = list(check_list(pictures, "pictures"))
    prompts = [prompt] * len(listed) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(listed):
        raise UserError(f"prompt: {len(prompts)} for {len(listed)} pictures; give one of each")
    read, part = WRITERS[name]
    asks = not function.reads[read].optional
    if asks and not all(p.strip() for p in prompts):
        raise UserError(f"prompt: {model.path} answers questions; give a prompt")
    _check_length(model, dict.fromkeys(prompts))
    room = getattr(model.method, f"{part}_net").context_length - options.max_new
    _check_room(model, [] if asks else prompts, room, options.max_new)
    run = runner(model.method, name, Vars(model.params, model.extra), model.mesh)
    arrays, tokenizer = model.text_arrays(function.reads[read], read), model.tokenizer()
    made: list[Made | None] = [None] * len(listed)
    batching = batching or Batching()
    for some in _chunks(range(len(listed)), batching.size):
        seen = {i: _seen(model, i, listed[i], skip_damaged) for i in some}
        rows = [i for i in some if seen[i] is not None]
        if not rows:
            batching.told(len(some))
            continue
        batch = {"image": np.stack([seen[i] for i in rows])}
        if any(prompts[i] for i in rows) or asks:
            batch |= _bucket(arrays([prompts[i] for i in rows]), read, None if asks else room)
        index = np.array([(i + seed * ROWS) % 2**31 for i in rows], np.int32)
        size = min(batching.size, len(listed))
        batch, index = {k: fill(a, size) for k, a in batch.items()}, fill(index, size)
        out = run(batch, options, index)
        found = (out[key][: len(rows)] for key in ("ids", "length", "score"))
        for i, ids, length, score in zip(rows, *found, strict=True):
            words = ids[0, : length[0]].tolist()
            made[i] = Made(tokenizer.decode(words), float(score[0]), words)
        batching.told(len(some))
    return made


def _seen(model: Any, number: int, picture: Any, skip_damaged: bool) -> np.ndarray | None:
    """uint8[S, S, 3], None of one that is damaged and may be left out."""
    try:
        return read_numbered(model.decode, (number, picture))
    except UserError as error:
        if skip_damaged and isinstance(error.__cause__, DamagedSample):
            return None
        raise


def _stops(model: Any, words: Sequence[str]) -> list[int]:
    """The ids of words. Raises UserError for one that is not a single token."""
    found = []
    for word in words:
        tokenizer = model.tokenizer()
        ids = tokenizer.encode(word, 2)
        if len(ids) != 1 or tokenizer.decode(ids).strip() != word.strip().lower():
            raise UserError(f"stop={word!r}: is no single token of the vocabulary")
        found.append(int(ids[0]))
    return found


def _check_length(model: Any, prompts: Iterable[str]) -> None:
    """Raises UserError for a prompt that would be cut."""
    for prompt in prompts:
        tokenizer = model.tokenizer() if prompt else None
        if prompt and tokenizer.overlong([prompt], tokenizer([prompt])):
            shown = prompt if len(prompt) < 40 else f"{prompt[:36]}..."
            most = tokenizer.context_length
            raise UserError(f"prompt: {shown!r} is too long; the model reads {most} tokens")


def _check_room(model: Any, prompts: Sequence[str], room: int, max_new: int) -> None:
    """Raises UserError where prompt and new tokens are more than the network has places for."""
    longest = max((model.tokenizer().length(p) - 1 for p in set(prompts) if p), default=1)
    if longest > room:
        places, begun = room + max_new, count_of(longest, "token")
        raise UserError(f"max_new={max_new}: after {begun} more than the model's {places} places")


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


def _bucket(arrays: dict[str, np.ndarray], name: str, room: int | None) -> dict[str, np.ndarray]:
    """Texts cut to the least bucket that holds the longest of them, at most `room`."""
    longest = int(arrays[f"{name}_mask"].sum(1).max())
    most = arrays[name].shape[1]
    length = min([most, *(bucket for bucket in BUCKETS if bucket >= longest)])
    length = length if room is None else min(length, room)
    return {key: array[:, :length] for key, array in arrays.items()}


def _chunks(items: range, size: int) -> Iterator[range]:
    for at in range(0, len(items), size):
        yield items[at : at + size]

"""Texts that a model writes for pictures, and whether a text belongs to one.

`generate` of cli/generate.py, `Model.generate` and `Model.match` end here. The file exists so that
a command and a notebook write the same texts.
"""

import dataclasses
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax.api.embed import Batching
from vlp_jax.api.embeddings import Progress
from vlp_jax.api.files import check_writable
from vlp_jax.api.model import Model, load_model
from vlp_jax.api.pictures import SKIP, check_list, list_pictures, read_numbered
from vlp_jax.api.placement import fill, runner
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Vars
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.encoding import read_text
from vlp_jax.data.folder import read_bounded
from vlp_jax.decoding.how import Writing
from vlp_jax.parallel.startup import first_process, start_jax

WRITERS = {"generate_text": "prompt", "generate_answer": "text"}  # function: the text it reads
BUCKETS = (1, 4, 8, 16, 32, 64)  # tokens of prompts, each a program
ROWS = 1 << 20  # keys of one seed


class Made(NamedTuple):
    """A text: its ids without prompt and stop id, and its score (decoding/how.py)."""

    text: str
    score: float
    ids: list[int]


def generate(
    model: Model,
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
    return made


def match(model: Model, pictures: Iterable[Any], texts: Sequence[str]) -> np.ndarray:
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
    return np.concatenate(found) if found else np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command is asked for.

    Attributes:
      checkpoint: a converted checkpoint or a training workdir.
      images: a folder or files. prompt: one for all; prompts: a file with one line per picture, in
        the order of their sorted paths.
      out: the .jsonl to write. how: decoding/how.py.
    """

    checkpoint: str
    images: Sequence[str]
    out: str
    prompt: str = ""
    prompts: str = ""
    how: Writing = dataclasses.field(default_factory=Writing)
    seed: int = 0
    batch_size: int = 32
    sharding: str = ""


def write(request: Request) -> dict[str, Any]:
    """Writes a line per picture: {image, prompt, text, score, ids}; returns {out, images, seconds},
    in a job the first process alone.

    Raises:
      UserError: as `generate`, or a place that cannot be written.
    """
    start = time.perf_counter()
    root, names = list_pictures(request.images, False)
    prompt = _lines(request.prompts, len(names)) if request.prompts else request.prompt
    if os.path.isdir(request.out):
        raise UserError(f"--out={request.out}: is a folder; name a .jsonl file")
    check_writable("--out", os.path.dirname(os.path.abspath(request.out)))
    start_jax()
    model = load_model(request.checkpoint, request.sharding)
    progress = Progress(len(names))
    how = {f.name: getattr(request.how, f.name) for f in dataclasses.fields(request.how)}
    batching = Batching(request.batch_size, told=progress.add)
    found = generate(model, _Files(root, names, model), prompt, request.seed, batching, **how)
    progress.end()
    if not first_process():
        return {}
    prompts = itertools.repeat(prompt) if isinstance(prompt, str) else prompt
    os.makedirs(os.path.dirname(os.path.abspath(request.out)), exist_ok=True)
    partial = f"{request.out}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        for name, begun, made in zip(names, prompts, found, strict=False):
            row = {"image": name, "prompt": begun, **made._asdict()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, request.out)
    seconds = round(time.perf_counter() - start, 2)
    return {"out": request.out, "images": len(names), "seconds": seconds}


class _Files(Sequence):
    """Pictures by their names below a root; an unreadable one is an error that names it."""

    def __init__(self, root: str, names: list[str], model: Model):
        self._root, self._names, self._decode = root, names, model.decode

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> np.ndarray:
        name = self._names[number]
        try:
            return self._decode(read_bounded(os.path.join(self._root, name), ""))
        except DamagedSample as error:
            raise UserError(f"--images: {name}: {error} {SKIP}") from error


def _writer(model: Model) -> tuple[str, Any]:
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


def _lines(path: str, count: int) -> list[str]:
    """Lines of a file. Raises UserError: not as many as pictures."""
    lines = read_text(path).splitlines()
    if len(lines) != count:
        raise UserError(f"--prompts={path}: {len(lines)} lines for {count} pictures")
    return lines


def _chunks(items: range, size: int) -> Iterator[range]:
    for at in range(0, len(items), size):
        yield items[at : at + size]

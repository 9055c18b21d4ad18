"""`generate` of the command line: a text for every picture of a folder, or after every prompt of a
file, as lines of JSON.

The file exists so that what is asked for is checked before a model is loaded, and a file is there
whole or not at all.
"""

import dataclasses
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vlp_jax.api.embed import Batching
from vlp_jax.api.embeddings import Progress
from vlp_jax.api.files import check_writable
from vlp_jax.api.model import load_model
from vlp_jax.api.pictures import SKIP, list_pictures
from vlp_jax.api.writing import generate
from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import build
from vlp_jax.core.strict_json import dumps
from vlp_jax.data.encoding import read_text
from vlp_jax.decoding.how import Writing
from vlp_jax.parallel.startup import first_process, start_jax


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command is asked for.

    Attributes:
      checkpoint: a converted checkpoint or a training workdir.
      images: a folder or files, or none. prompt: one for all; prompts: a file with one line per
        picture, in the order of their sorted paths.
      out: the .jsonl to write. how: fields of decoding/how.py Writing. stop: further words that end
        a text. skip_damaged: leave unreadable pictures out instead of stopping.
    """

    checkpoint: str
    images: Sequence[str] | None
    out: str
    prompt: str = ""
    prompts: str = ""
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stop: Sequence[str] = ()
    skip_damaged: bool = False
    seed: int = 0
    batch_size: int = 32
    sharding: str = ""


def write(request: Request) -> dict[str, Any]:
    """Writes a line per picture: {image, prompt, text, score, ids}, without images a line per
    prompt, and no `image`; returns {out, images, skipped,
    seconds}, in a job the first process alone.

    Raises:
      UserError: as `generate`, or a place that cannot be written.
    """
    start = time.perf_counter()
    with by_flag():
        build(Writing, request.how, "generate")
    if request.batch_size < 1:
        raise UserError(f"--batch-size={request.batch_size}: must be at least 1")
    root, names, paths = "", None, None
    if request.images:
        root, names = list_pictures(request.images, request.skip_damaged)
        paths = [os.path.join(root, name) for name in names]
    prompt = _lines(request.prompts, names and len(names)) if request.prompts else request.prompt
    count = len(names) if names else len(prompt) if request.prompts else 1
    if os.path.isdir(request.out):
        raise UserError(f"--out={request.out}: is a folder; name a .jsonl file")
    if os.path.realpath(request.out) in map(os.path.realpath, (request.prompts, *(paths or ()))):
        raise UserError(f"--out={request.out}: is read by this command; name another file")
    check_writable("--out", os.path.dirname(os.path.abspath(request.out)))
    start_jax()
    model = load_model(request.checkpoint, request.sharding)
    progress = Progress(count, "generate")
    how = dict(request.how, stop=request.stop, skip_damaged=request.skip_damaged)
    batching = Batching(request.batch_size, told=progress.add)
    with by_flag():
        found = generate(model, paths, prompt, request.seed, batching, **how)
    progress.end()
    if not any(found):
        raise UserError(f"--images: {root}: none of {count} pictures can be read")
    if not first_process():
        return {}
    prompts = itertools.repeat(prompt) if isinstance(prompt, str) else prompt
    os.makedirs(os.path.dirname(os.path.abspath(request.out)), exist_ok=True)
    partial = f"{request.out}.partial"
    # a name that is no UTF-8 becomes \udcXX, which JSON reads back
    with open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
        for name, begun, made in zip(names or itertools.repeat(""), prompts, found, strict=False):
            if made is None:
                continue
            row = {"image": name} if names else {}
            row |= {"prompt": begun, **made._asdict()}
            file.write(dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, request.out)
    seconds = round(time.perf_counter() - start, 2)
    images = sum(made is not None for made in found)
    skipped = count - images
    return {"out": request.out, "images": images, "skipped": skipped, "seconds": seconds}


_NAMED = ("prompt", "prompts", "stop", *(f.name for f in dataclasses.fields(Writing)))
_KEY = rf"(?:generate\.)?\b({'|'.join(sorted(_NAMED, key=len, reverse=True))})\b"


@contextmanager
def by_flag() -> Iterator[None]:
    """Names options by their flags in errors that begin with one, and pictures by `--images`."""
    try:
        yield
    except UserError as error:
        said = str(error)
        if re.match(_KEY, said):
            said = re.sub(_KEY, lambda found: "--" + found[1].replace("_", "-"), said)
        elif re.match(r"pictures\[\d+\]: ", said):
            said = re.sub(r"^pictures\[\d+\]", "--images", said) + f" {SKIP}"
        said = said.replace("; give a prompt", "; give --prompt")
        said = said.replace("; give some", "; give --images").replace(
            "; give prompts", "; leave --images out"
        )
        raise UserError(said) from error


def _lines(path: str, count: int | None) -> list[str]:
    """Lines of a file. Raises UserError: none, or not as many as pictures."""
    try:
        text = read_text(path)
    except UserError as error:
        raise UserError(f"--prompts: {error}") from error
    lines = text.removesuffix("\n").split("\n") if text else []  # U+2028 ends none
    if not lines:
        raise UserError(f"--prompts={path}: is empty")
    if count not in (None, len(lines)):
        raise UserError(f"--prompts={path}: {len(lines)} lines for {count} pictures")
    return lines

"""`index`: embeds a data set into one folder (index.py), in parts that outlive a kill.

All work is done in a hidden folder beside the target, part by part, each complete with its record;
the last step gives the folder its name. So there is no half index that could be opened, and the
same command goes on after the last whole part, or starts clean where anything has changed. The file
exists so that hours of embedding are never lost and never mixed.
"""

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import time
from collections import Counter
from typing import Any

from vlp_jax.api.digests import digests
from vlp_jax.api.embed import Batching
from vlp_jax.api.embeddings import Progress
from vlp_jax.api.files import check_writable
from vlp_jax.api.model import Model, load_model
from vlp_jax.api.stop import Check, stoppable
from vlp_jax.core.errors import UserError
from vlp_jax.core.strict_json import dumps
from vlp_jax.data.damage import NOTED
from vlp_jax.data.folder import in_order
from vlp_jax.data.open import open_source
from vlp_jax.data.source import Source, captioned, digest, pictures_stamp
from vlp_jax.data.staging import MANIFEST, file_facts, tidy
from vlp_jax.data.walk import told
from vlp_jax.data.whole import write_json, write_whole
from vlp_jax.parallel.hosts import from_first
from vlp_jax.parallel.startup import first_process, start_jax
from vlp_jax.serve.ann import build_ann, check_kind
from vlp_jax.serve.index import ANN, FORMAT, Index, read_manifest
from vlp_jax.serve.metadata import load_pyarrow
from vlp_jax.serve.part import Embedding, embed_part, write_part
from vlp_jax.serve.staging import check_free, check_ours, read_plan, staging


@dataclasses.dataclass(frozen=True)
class Request:
    """What `index` is asked for.

    Attributes:
      checkpoint: a converted checkpoint or a training workdir.
      data: what data/open.py opens.
      out: the folder to write.
      ann: a faiss index beside: flat, hnsw or ivfpq; '' is none.
      batch_size, threads: rows per call; decoders of pictures.
      sharding: see load_model.
      thumbnails: pixels of their longer side; 0 writes none.
      part: examples of one part, after which a killed run goes on.
    """

    checkpoint: str
    data: str
    out: str
    ann: str = ""
    batch_size: int = 32
    threads: int = os.cpu_count() or 1
    sharding: str = ""
    thumbnails: int = 256
    part: int = 16384

    def check(self) -> None:
        """Refuses what cannot work, before any work. Raises UserError."""
        for name, least in (("batch_size", 1), ("threads", 1), ("thumbnails", 0), ("part", 1)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag}={getattr(self, name)}: must be at least {least}")
        check_kind(self.ann)
        load_pyarrow()
        check_writable("--out", self.out)
        check_free(self.out)


def build_index(request: Request) -> dict[str, Any]:
    """Writes the index folder, or finds it done; returns {out, rows, embedded (of these, now),
    captions, skipped {reason: count}, dim, ann, seconds}, in a job the first process alone.

    An older index in its place is replaced at the end. Raises UserError: bad numbers, a missing
    checkpoint or data set, a model without an image tower or without the tokenizer of its text
    tower, a folder that cannot be written or is in use, no picture that can be read.
    """
    request.check()
    start = time.perf_counter()
    start_jax()
    with stoppable("parts that are whole are kept") as check:
        return _build_index(request, check, start)


def _build_index(request: Request, check: Check, start: float) -> dict[str, Any]:
    source = in_order(open_source(request.data))
    model = load_model(request.checkpoint, request.sharding)
    model.run("image", "--checkpoint: ")
    if len(model.row("image")) > 1:
        several = f"{model.row('image')[0]} vectors a picture, and an index holds one"
        raise UserError(f"--checkpoint={request.checkpoint}: gives {several}")
    plan, embedded = plan_of(request, model, source), 0
    if from_first(str(read_plan(request.out) == plan)) == "False":
        embedded = _build(request, plan, model, source, check)
    if not first_process():
        return {}
    tidy(request.out, read_manifest)
    if request.ann and read_manifest(request.out)["ann"] != request.ann:
        add_ann(request.out, request.ann)
    manifest = read_manifest(request.out)
    said = {key: manifest[key] for key in ("rows", "captions", "skipped", "dim", "ann")}
    seconds = round(time.perf_counter() - start, 2)
    return {"out": request.out, **said, "embedded": embedded, "seconds": seconds}


def plan_of(request: Request, model: Model, source: Source) -> dict[str, Any]:
    """What an index is made of: with the same plan it is the same index."""
    texts = "text" in model.embedders() and captioned(source)
    stamps = getattr(source, "stamp", ""), pictures_stamp(source)
    data = digest([source.fingerprint, *stamps])
    return {
        "digests": {**digests(model), "data": data},
        "modalities": ["image", "text"] if texts else ["image"],
        "examples": len(source),
        "thumbnails": request.thumbnails,
        "part": request.part,
    }


def _build(
    request: Request,
    plan: dict[str, Any],
    model: Model,
    source: Source,
    check: Check,
) -> int:
    """Embeds what is not embedded yet, and names the folder; returns how many rows are new. check:
    of `stoppable`."""
    parts = {f"{at // request.part:04d}": at for at in range(0, len(source), request.part)}
    check_ours(request.out)
    first, new = first_process(), 0
    with (
        staging(request.out, plan, _command(request))
        if first
        else contextlib.nullcontext() as stage
    ):
        known = json.loads(from_first(dumps([stage and stage.part(name) for name in parts])))
        todo = dict(zip(parts, known, strict=True))
        rows = {name: range(at, min(at + request.part, len(source))) for name, at in parts.items()}
        progress = Progress(sum(len(rows[name]) for name in parts if todo[name] is None))

        def told(count: int) -> None:
            progress.add(count)
            check()

        texts = model.text_arrays() if "text" in plan["modalities"] else None
        how = Batching(request.batch_size, request.threads, told)
        what = Embedding(model, source, request.thumbnails, texts, how)
        for name in (name for name in parts if todo[name] is None):
            check.part()
            part = embed_part(what, rows[name])
            new += len(part.samples)
            if stage:
                todo[name] = write_part(part, stage.folder, name)
                stage.seal(name, todo[name])
        progress.end()
        if texts:
            texts.tell()
        if stage:
            records, again = list(todo.values()), functools.partial(check_ours, request.out)
            stage.finish(lambda: _manifest(request, plan, source, records), again)
    return new


def _command(request: Request) -> str:
    """The words that make this index."""
    words = {name: getattr(request, name) for name in ("checkpoint", "data", "out")}
    usual = {"thumbnails": Request.thumbnails, "part": Request.part}
    words |= {
        name: getattr(request, name) for name in usual if getattr(request, name) != usual[name]
    }
    return shlex.join(["index", *(f"--{name}={value}" for name, value in words.items())])


def _manifest(
    request: Request, plan: dict[str, Any], source: Source, parts: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the folder says of itself. Raises UserError where no picture could be read."""
    skipped = Counter(d.reason for d in source.damage if d.reason not in NOTED)
    for part in parts:
        skipped.update(part["skipped"])
    rows = sum(part["rows"] for part in parts)
    if not rows:
        raise UserError(f"--data={request.data}: no picture that can be read ({told(skipped)})")
    checkpoint = os.path.abspath(request.checkpoint)
    return {
        "format": FORMAT,
        "plan": plan,
        "rows": rows,
        "dim": parts[0]["dim"],
        "captions": sum(part["captions"] for part in parts),
        "skipped": dict(skipped),
        "checkpoint": {
            "path": checkpoint,
            "beside": os.path.relpath(checkpoint, os.path.realpath(request.out)),
        },
        "data": request.data,
        "ann": "",
        "files": {name: facts for part in parts for name, facts in part["files"].items()},
    }


def add_ann(folder: str, kind: str) -> None:
    """Adds faiss indices to a complete index, or replaces them; whole or not at all. Raises
    UserError.
    """
    index = Index.open(folder)
    files = {n: facts for n, facts in index.manifest["files"].items() if n not in ANN.values()}
    write_json(os.path.join(folder, MANIFEST), {**index.manifest, "ann": "", "files": files})
    for side, vectors in index.sides.items():
        path = os.path.join(folder, ANN[side])
        write_whole(path, functools.partial(build_ann, kind, vectors))
        files[ANN[side]] = file_facts(path)
    write_json(os.path.join(folder, MANIFEST), {**index.manifest, "ann": kind, "files": files})

"""CapFilt: a captioner writes a text for every picture, a filter drops the texts that do not match
theirs (arXiv:2201.12086, section 3.3).

The result is a folder of tars with indices, the source's samples with the texts that were kept, and
every decision with its score. It grows as an index does (data/staging.py): a killed command goes on
after its last whole part. The file exists as what `python -m vlp_jax capfilt` and a notebook call.
"""

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from vlp_jax.api.capfilt_part import TEXTS, CapFilt, Rules, write_part
from vlp_jax.api.config import FRESH
from vlp_jax.api.digests import digests
from vlp_jax.api.embeddings import Progress
from vlp_jax.api.files import check_writable
from vlp_jax.api.model import Model, load_model
from vlp_jax.api.placement import ways
from vlp_jax.api.stop import Check, stoppable
from vlp_jax.api.writing import Matcher, Writer
from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.schema import build
from vlp_jax.core.strict_json import dumps
from vlp_jax.data.damage import NOTED
from vlp_jax.data.folder import in_order
from vlp_jax.data.open import open_source
from vlp_jax.data.shard import expand_shards, is_remote
from vlp_jax.data.source import (
    FOLDER_KINDS,
    Source,
    check_captions,
    check_key,
    digest,
    pictures_stamp,
)
from vlp_jax.data.staging import check_free, check_ours, manifest_of, read_plan, staging, tidy
from vlp_jax.data.walk import told
from vlp_jax.decoding.how import Writing
from vlp_jax.interop.folder import MANIFEST as CONVERTED
from vlp_jax.methods.base import make_method
from vlp_jax.parallel.hosts import from_first
from vlp_jax.parallel.startup import first_process, start_jax
from vlp_jax.report.filtered import filtered_sheet

KIND, FORMAT, SHEET = "capfilt", 1, "report/kept_and_dropped.png"
# 20 and 5 in the reference, of which the prompt "a picture of" and [DEC] are four
HOW = Writing(max_new=16, min_new=1, top_p=0.9)
NEEDS = {
    "captioner": ("generate_text", "writes no texts"),
    "filter": ("match", "has no head that matches pictures and texts"),
}
read_manifest = functools.partial(manifest_of, what="data set", form=FORMAT, kind=KIND)


@dataclasses.dataclass(frozen=True)
class Request(Rules):
    """What `capfilt` is asked for.

    Attributes:
      captioner, filter: converted checkpoints or workdirs, which may be one; '' does without.
      data: what data/open.py opens.
      out: the folder to write.
      how: decoding/how.py; the others beside these: see Rules.
      batch_size: pictures of each device at once, so that their number changes no program.
      shard_size: pictures of one part, after which a killed run goes on, and most of one tar.
      sharding: see load_model.
    """

    data: str
    out: str
    captioner: str = ""
    filter: str = ""
    how: Writing = HOW
    batch_size: int = 32
    shard_size: int = 1000
    sharding: str = ""

    def check(self) -> None:
        """Refuses what cannot work, before anything is loaded. Raises UserError."""
        least = {"batch_size": 1, "threads": 1, "shard_size": 1, "most": 0, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                flag = name.replace("most", "texts").replace("_", "-")
                raise UserError(f"--{flag}={getattr(self, name)}: must be at least {value}")
        if not 0 <= self.threshold < 1:
            raise UserError(f"--threshold={self.threshold:g}: must be from 0 to below 1")
        if not self.captioner and not self.filter:
            raise UserError("capfilt: give --captioner, --filter or both")
        if self.how.top_p is not None and not 0 < self.how.top_p <= 1:
            raise UserError(f"--top-p={self.how.top_p:g}: must be above 0 and at most 1")
        build(Writing, dataclasses.asdict(self.how), "generate")
        if self.keep_human and not self.captioner:
            raise UserError("--keep-human: without --captioner it leaves nothing to filter")
        if self.how.returned != 1:
            raise UserError("capfilt: writes one text for a picture; returned must be 1")
        check_apart(self.data, self.out)
        check_writable("--out", self.out)
        check_free(self.out, read_manifest, "data set")
        for name, (needed, lacks) in NEEDS.items():
            path = getattr(self, name)
            functions = offered(path) if path else None
            if functions is not None and needed not in functions:
                hint = f"; it offers {', '.join(sorted(functions))}"
                raise UserError(f"--{name}={path}: its method {lacks}{hint}")


def capfilt(request: Request) -> dict[str, Any]:
    """Writes the folder, or finds it done; returns {out, pictures, counts {"web kept": n, ...},
    skipped {reason: n}, computed (pictures, now), seconds}, in a job the first process alone.

    Raises:
      UserError: bad numbers, a missing checkpoint or data set, a captioner that does not write or a
        filter that does not match, a folder that cannot be written or is in use, no picture that
        can be read. RunError: no text was kept; the disk.
    """
    request.check()
    start = time.perf_counter()
    start_jax()
    with stoppable("parts that are whole are kept") as check:
        source = in_order(open_source(request.data))
        check_texts(request, source)
        models = load_models(request)
        plan, computed = plan_of(request, models, source), 0
        done = read_plan(request.out, read_manifest) == plan
        if from_first(str(done)) == "False":
            work = _work(request, models, source)  # what it refuses empties no folder
            computed = _write(request, plan, work, check)
    if not first_process():
        return {}
    tidy(request.out, read_manifest)
    manifest = read_manifest(request.out)
    said = {key: manifest[key] for key in ("pictures", "counts", "skipped")}
    seconds = round(time.perf_counter() - start, 2)
    return {"out": request.out, **said, "computed": computed, "seconds": seconds}


def check_apart(data: str, out: str) -> None:
    """Raises UserError where the result is the data or a folder of its tars, or lies in a folder
    that is searched for pictures: its own would be of the data the next time."""
    kind, _, folder = data.partition(":")
    named = os.path.expanduser(folder if kind in FOLDER_KINDS and folder else data)
    whole, place = os.path.realpath(named), os.path.realpath(out)
    if whole == place:
        raise UserError(f"--out={out}: is the data itself; choose another folder")
    shards = expand_shards(named) if _is_shards(data, named) else []
    if any(os.path.commonpath([os.path.realpath(file), place]) == place for file in shards):
        raise UserError(f"--out={out}: holds --data={data}, which it would replace; choose another")
    tars = os.path.isdir(whole) and any(n.lower().endswith(".tar") for n in os.listdir(whole))
    if os.path.isdir(whole) and not tars and os.path.commonpath([whole, place]) == whole:
        raise UserError(f"--out={out}: lies in --data={data}; choose a folder outside")


def _is_shards(data: str, path: str) -> bool:
    """Whether data is named by its tars, which lie here."""
    tars = ".tar" in os.path.basename(path).lower() and not os.path.isdir(path)
    return tars and not data.startswith(("tfds:", "builtin:")) and not is_remote(path)


def check_texts(request: Request, source: Source) -> None:
    """Raises UserError where a filter alone has no text to look at, or the truth is no key."""
    if not request.captioner:
        check_captions(source, request.data)
    if request.truth:
        check_key(source, request.truth, "--truth")


def offered(path: str) -> dict[str, Any] | None:
    """The functions of a checkpoint's method, which its folder says without its weights; None where
    it says nothing, which loading tells."""
    path = path.removeprefix(FRESH)
    for name in (CONVERTED, "config.json"):
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError),
            open(os.path.join(path, name), encoding="utf-8") as file,
        ):
            return make_method(json.load(file)["method"]).functions()
    return None


def load_models(request: Request) -> dict[str, Model]:
    """{'captioner', 'filter'} as far as they are asked for; one checkpoint is loaded once."""
    found: dict[str, Model] = {}
    loaded: dict[str, Model] = {}
    for name in NEEDS:
        if path := getattr(request, name):
            place = os.path.realpath(path)
            try:
                loaded[place] = loaded.get(place) or load_model(path, request.sharding)
            except UserError as error:
                raise UserError(str(error).replace("--checkpoint", f"--{name}")) from None
            found[name] = loaded[place]
    return found


def plan_of(request: Request, models: Mapping[str, Model], source: Source) -> dict[str, Any]:
    """What the result is made of: with the same plan it is the same, byte for byte."""
    stamps = getattr(source, "stamp", ""), pictures_stamp(source)
    plan: dict[str, Any] = {name: None for name in NEEDS}
    for name, model in models.items():
        plan[name] = {**digests(model), "tokenizer": model.tokenizer().fingerprint}
    keys = ("threshold", "keep_human", "most", "truth", "shard_size")
    if request.captioner:
        plan["how"] = {**dataclasses.asdict(request.how), "prompt": request.prompt}
        plan["how"]["seed"] = request.seed
    data = {"data": digest([source.fingerprint, *stamps]), "examples": len(source)}
    plan = {"kind": KIND, **plan, **data, **{key: getattr(request, key) for key in keys}}
    return json.loads(dumps(plan))  # as it is read again: lists, no tuples


def _work(request: Request, models: Mapping[str, Model], source: Source) -> CapFilt:
    """What decides. Raises UserError as Writer."""
    mesh = next(iter(models.values())).mesh
    size = request.batch_size * (1 if mesh is None else ways(mesh))
    writer = matcher = None
    views = {}
    if captioner := models.get("captioner"):
        writer = Writer(captioner, dataclasses.asdict(request.how), size)
        writer.check([request.prompt])
        views["writer"] = captioner.decode
    if judge := models.get("filter"):
        matcher = Matcher(judge, size)
        views["matcher"] = judge.decode
    cleaned = [model.tokenizer().blank for model in models.values()]
    blank = lambda text: not text.strip() or any(nothing(text) for nothing in cleaned)  # noqa: E731
    return CapFilt(source, writer, matcher, views, request, size, blank)


def _write(request: Request, plan: dict[str, Any], work: CapFilt, check: Check) -> int:
    """Makes the parts that are not there yet, and names the folder; returns how many pictures were
    looked at. check: of `stoppable`."""
    size, total = request.shard_size, len(work.source)
    parts = {f"{at // size:05d}": range(at, min(at + size, total)) for at in range(0, total, size)}
    check_ours(request.out, read_manifest, (SHEET,), KIND)
    first = first_process()
    hold = staging(request.out, plan, read_manifest, _command(request))
    with hold if first else contextlib.nullcontext() as stage:
        known = json.loads(from_first(dumps([stage and stage.part(name) for name in parts])))
        todo = dict(zip(parts, known, strict=True))
        new = [name for name in parts if todo[name] is None]
        progress = Progress(sum(len(parts[name]) for name in new), KIND)

        def told(count: int) -> None:
            progress.add(count)
            check()

        work = dataclasses.replace(work, told=told)
        for name in new:
            check.part()
            part = work.part(parts[name])
            if stage:
                todo[name] = write_part(part, stage.folder, name)
                stage.seal(name, todo[name])
        progress.end()
        for one in filter(None, (work.writer, work.matcher)):
            one.arrays.tell()
        if stage:
            records = list(todo.values())
            stage.finish(
                lambda: _manifest(request, plan, work.source, records, stage.folder),
                lambda: check_ours(request.out, read_manifest, (SHEET,), KIND),
            )
    return progress.done


def _command(request: Request) -> str:
    """The words that go on with it, but for how texts are written."""
    names = ("captioner", "filter", "data", "out")
    words = {name: getattr(request, name) for name in names if getattr(request, name)}
    return shlex.join([KIND, *(f"--{name}={value}" for name, value in words.items()), "..."])


def _manifest(
    request: Request,
    plan: dict[str, Any],
    source: Source,
    parts: list[dict[str, Any]],
    folder: str,
) -> dict[str, Any]:
    """What the folder says of itself, its sheet drawn. Raises UserError where no picture could be
    read, RunError where no text was kept."""
    skipped = Counter(d.reason for d in source.damage if d.reason not in NOTED)
    counts: Counter = Counter()
    for part in parts:
        skipped.update(part["skipped"])
        counts.update(part["counts"])
    looked = counts["pictures kept"] + counts["pictures dropped"]
    if not looked:
        raise UserError(f"--data={request.data}: no picture that can be read ({told(skipped)})")
    if not counts["pictures kept"]:
        raise RunError(f"--out={request.out}: the filter keeps no text of {looked} pictures")
    files = {name: facts for part in parts for name, facts in part["files"].items()}
    texts = [os.path.join(folder, name) for name in files if name.startswith(f"{TEXTS}/")]
    filtered_sheet(lambda: _notes(texts), source, os.path.join(folder, SHEET))
    return {
        "kind": KIND,
        "format": FORMAT,
        "plan": plan,
        "pictures": looked,
        "counts": {key: counts[key] for key in sorted(counts)},
        "skipped": dict(skipped),
        "captioner": request.captioner,
        "filter": request.filter,
        "data": request.data,
        "sheet": SHEET,
        "files": files,
    }


def _notes(paths: list[str]) -> Iterator[dict[str, Any]]:
    """All decisions, in the order of the source."""
    for path in paths:
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)

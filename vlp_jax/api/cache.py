"""`data cache`: runs functions of a model over a data set and keeps their outputs, so that training
on what never changes (frozen encoders, latents) computes it once.

A function that reads captions alone is kept caption by caption, any other sample by sample, with
the draws of its fields (crop, flip) as one epoch shows them, and with every field that shares those
draws. The file exists as what `python -m vlp_jax data cache` and a notebook call.
"""

import contextlib
import copy
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from vlp_jax.api.cached_parts import PartMaker, digests
from vlp_jax.api.init_from import Weights
from vlp_jax.api.model import load_model
from vlp_jax.api.placement import Run, runner
from vlp_jax.api.stop import Check, stoppable
from vlp_jax.api.switches import computing
from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.fields import Field, present
from vlp_jax.core.inputs import Vars
from vlp_jax.core.pytree import flatten, merge
from vlp_jax.core.schema import plain
from vlp_jax.data.cache import caches, is_cache
from vlp_jax.data.cache_writer import CacheWriter, part_rows_of
from vlp_jax.data.fields.base import Setup, make_readers
from vlp_jax.data.fields.cached import one_text
from vlp_jax.data.open import open_source
from vlp_jax.data.source import Source, pictures_stamp
from vlp_jax.data.text.named import open_tokenizers
from vlp_jax.methods.base import Method
from vlp_jax.parallel.hosts import from_first
from vlp_jax.parallel.startup import first_process
from vlp_jax.train.functions import beside, find, taken
from vlp_jax.train.lock import locked
from vlp_jax.train.progress import duration_text, show
from vlp_jax.train.state import Start, frozen_paths
from vlp_jax.train.trainer import Trainer

_SCALES = ("image_mean", "image_std")  # what a method does to pictures before a part sees them


@dataclasses.dataclass(frozen=True)
class Request:
    """What to cache.

    Attributes:
      out: the folder to write; the same request goes on with an unfinished one.
      config: a training recipe, whose first weights, data and settings count; or
      checkpoint: a converted folder or workdir, on the data set `path`.
      functions: names; () takes all whose outputs the method takes in training.
      batch_size: rows per call. part_rows: samples of a part. threads: that decode pictures.
    """

    out: str
    config: Any = None
    checkpoint: str = ""
    path: str = ""
    functions: Sequence[str] = ()
    batch_size: int = 64
    part_rows: int = 1024
    threads: int = os.cpu_count() or 1

    def __post_init__(self) -> None:
        """Raises UserError unless there is one of config and checkpoint, with data."""
        if (self.config is None) == (not self.checkpoint):
            raise UserError("data cache: give --config=RECIPE or --checkpoint=DIR with --path=DATA")
        if self.checkpoint and not self.path:
            raise UserError("--path: names the data set that --checkpoint is run over")
        for flag, value in (("batch-size", self.batch_size), ("part-rows", self.part_rows)):
            if value < 1:
                raise UserError(f"--{flag}={value} must be at least 1")


class Given(NamedTuple):
    """A model with the data that it is run over.

    Attributes:
      method, v, mesh: the model. data: the `data` section. fields: of a batch. constant: the paths
      of weights that must be the same where the cache is used.
    """

    method: Method
    v: Vars
    mesh: Mesh | None
    data: Mapping[str, Any]
    fields: Mapping[str, Field]
    constant: Sequence[str]


def cache(request: Request) -> dict[str, Any]:
    """Writes the cache; returns {out, samples, functions, computed, seconds, bytes}, in a job the
    first process alone.

    Raises:
      UserError: an unknown function, a data set that is a cache itself, a folder that holds
        something else. RunError: the disk, an output that is not finite.
    """
    start = time.perf_counter()
    given = _of_config(request) if request.config is not None else _of_checkpoint(request)
    path = given.data["path"]
    if os.path.isdir(path) and is_cache(path):
        raise UserError(f"{path}: is a cache itself; give the data set that it was made of")
    names = _functions(given.method, request.functions)
    rows = part_rows_of(request.out) or request.part_rows  # an old cache goes on as it began
    request = dataclasses.replace(request, part_rows=rows)
    source = open_source(path)
    maker = _maker(given, source, names, request)
    plan = _plan(given, source, maker, names, request)
    with _held(request.out), stoppable("parts that are whole are kept") as check:
        functions = {name: _checked(run, check) for name, run in maker.functions.items()}
        maker = dataclasses.replace(maker, functions=functions)
        return _write(CacheWriter(request.out, plan), maker, start, check)


def _checked(run: Run, check: Callable[[], None]) -> Run:
    """A function before whose batches the command may be stopped."""

    def call(*words: Any, **options: Any) -> Any:
        check()
        return run(*words, **options)

    return call


def _write(writer: CacheWriter, maker: PartMaker, start: float, check: Check) -> dict[str, Any]:
    """All parts that are not there yet, then the manifest."""
    first = first_process()
    done = json.loads(from_first(json.dumps(writer.begin() if first else None)))
    total, computed = maker.parts, 0
    for number in range(total) if done is not None else ():
        if number in done:
            continue
        check.part()
        made = maker.part(number)
        if first:
            writer.write(number, *made)
        computed += 1
        seconds = (time.perf_counter() - start) / computed * (total - len(done) - computed)
        line = f"cache: part {len(done) + computed} of {total}, {duration_text(seconds)} left"
        show(line, last=number == total - 1)
    if not first:
        return {}
    sound = [np.load(file) for file in Path(writer.out).rglob("sound.npy")]
    damaged = sum(int((~rows).sum()) for rows in sound)
    if damaged == len(maker.source):
        where = maker.source.where(0)
        raise RunError(f"none of {damaged} samples can be read, first {where}")
    if done is not None:
        writer.finish(total)
    size = sum(file.stat().st_size for file in Path(writer.out).rglob("*") if file.is_file())
    return {
        "out": writer.out,
        "samples": len(maker.source),
        "functions": list(maker.functions),
        "computed": computed,
        "damaged": damaged,
        "bytes": size,
        "seconds": round(time.perf_counter() - start, 2),
    }


@contextlib.contextmanager
def _held(out: str) -> Iterator[None]:
    """One command at a time in a folder."""
    if not first_process():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(Path(out)))
        except UserError as error:
            told = str(error).replace("--workdir=", "--out=").replace("a training", "a command")
            raise UserError(told) from None
        yield


def _of_config(request: Request) -> Given:
    """The first weights of a recipe's run, on its data."""
    config = copy.deepcopy(request.config)
    for key in [key for key in config.optim if key.startswith("warmup")]:
        config.optim[key] = type(config.optim[key])()  # nothing is trained: no word of it
    trainer = Trainer(config)
    weights = Weights(trainer) if trainer.config.init_from else None
    if weights:
        weights.show()
    start = trainer.first(weights.weights if weights else None)
    v = Vars(merge(start.state["params"], start.frozen), start.state["extra"])
    data = plain(trainer.config.data)
    constant = frozen_paths(trainer.method, trainer.abstract)
    return Given(trainer.method, v, trainer.mesh, data, trainer.whole_fields, constant)


def _of_checkpoint(request: Request) -> Given:
    """A converted folder or workdir, on a data set."""
    model = load_model(request.checkpoint, mesh=None)
    data = dict(model.config.get("data") or _data_of(model))
    data |= {"path": request.path, "holdout": 0.0}
    fields = present(model.method.fields(), data.get("fields") or {})
    v = Vars(model.params, model.extra)
    return Given(model.method, v, model.mesh, data, fields, list(flatten({**v.params, **v.extra})))


def _data_of(model: Any) -> dict[str, Any]:
    """The `data` section that a converted folder's preprocessing and tokenizer say."""
    how = dict(model.preprocessing)
    found = {"image": {**how, "eval_crop": how["crop"]}} if how else {}
    spec = model.tokenizer_spec
    if spec["name"]:
        options = dict(spec.get("options", {}))
        found |= {"tokenizer": spec["name"], "tokenizer_options": options}
    return found


def _functions(method: Method, asked: Sequence[str]) -> list[str]:
    """The functions to run."""
    for name in asked:
        find(method, name)
    names = list(asked or taken(method))
    if not names:
        hint = nearest("", method.functions())
        raise UserError(f"--functions: {type(method).__name__} takes none in training{hint}")
    return names


def _maker(given: Given, source: Source, names: Sequence[str], request: Request) -> PartMaker:
    """What computes the parts."""
    tokenizers = open_tokenizers(given.fields, given.data)
    own = given.data.get("fields") or {}

    def readers(fields: Mapping[str, Field]) -> Any:
        data = {**given.data, "fields": {n: own[n] for n in fields if n in own}}
        return make_readers(fields, Setup(data, tokenizers))

    functions, samples, captions, extra = {}, {}, {}, {}
    for name in names:
        reads = find(given.method, name).reads
        functions[name] = runner(given.method, name, given.v, given.mesh)
        text = one_text(readers(reads))
        if text is not None:
            captions[name] = text
        else:
            samples |= reads
            extra |= beside(reads, given.fields)
    told = {n for n in extra if n not in given.fields}  # comes with its picture
    rows = readers(samples | {n: field for n, field in extra.items() if n not in told})
    for reader in {**rows, **captions}.values():
        reader.prepare(source, given.data["path"])
    kept = [array for n, field in extra.items() for array in field.spec(n, 1)]
    return PartMaker(
        source=source,
        functions=functions,
        rows=rows,
        captions=captions,
        kept=tuple(kept),
        most=int(given.data.get("captions_per_picture") or 0),
        batch_size=request.batch_size,
        part_rows=request.part_rows,
        threads=request.threads,
    )


def _plan(
    given: Given, source: Source, maker: PartMaker, names: Sequence[str], request: Request
) -> dict[str, Any]:
    """All that a cache depends on, but for the versions of the program."""
    path = given.data["path"]
    local = os.path.exists(os.path.expanduser(path))
    tree = flatten({**given.v.params, **given.v.extra})
    texts = [reader for text in maker.captions.values() for reader in text.readers]
    readers = {**maker.rows, **{reader.name: reader for reader in texts}}
    return {
        "path": os.path.abspath(os.path.expanduser(path)) if local else path,
        "fingerprint": source.fingerprint,
        "stamp": getattr(source, "stamp", ""),
        **({"pictures": pictures} if (pictures := pictures_stamp(source)) else {}),
        "rows": len(source),
        "part_rows": request.part_rows,
        "functions": list(names),
        "captions": maker.most,
        "reads": {name: reader.settings() for name, reader in readers.items()},
        "weights": digests({path: tree[path] for path in given.constant}),
        "networks": _computes(given.method, given.constant),
    }


def _computes(method: Method, constant: Iterable[str]) -> dict[str, str]:
    """What the weights at these paths do not say of the parts that they belong to."""
    shown = {key: repr(getattr(method, key)) for key in _SCALES if hasattr(method, key)}
    return computing(method, {path.partition("/")[0] for path in constant}) | shown


def check_weights(trainer: Trainer, start: Start) -> None:
    """Holds the frozen weights of a run, and how their networks compute, against those that its
    caches were made with.

    Raises:
      UserError: names the first that is another.
    """
    if not any(getattr(field, "reads", None) for field in trainer.fields.values()):
        return
    tree = flatten({**start.frozen, **start.state["extra"]})
    constant = frozen_paths(trainer.method, trainer.abstract)
    ours = digests({path: tree[path] for path in constant})
    says = _computes(trainer.method, constant)
    for found in caches(trainer.pipeline.source):
        made = found.manifest["weights"]
        other = [path for path in ours if made.get(path, ours[path]) != ours[path]]
        if other or not made.keys() & ours.keys():
            what = f"made with another {other[0]}" if other else "made with weights of other names"
            raise UserError(f"data.path={found.folder!r}: {what} than this run has; make it again")
        there = found.manifest.get("networks", {})  # none of a cache from before it was kept
        for key in (key for key in says if there.get(key, says[key]) != says[key]):
            what = f"made with method.{key}={there[key]}, this run says {says[key]}"
            raise UserError(f"data.path={found.folder!r}: {what}; make it again")

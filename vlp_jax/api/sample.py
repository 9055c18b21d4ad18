"""`sample` of the command line: pictures from prompts, as PNG files that carry their settings.

A picture that is there with the same settings stays, so a stopped command goes on where it stopped
and the result is the same; with others nothing is drawn over it. The file exists so that what is
asked for is checked before a model is loaded, and a file is there whole or not at all.
"""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vlp_jax import __version__
from vlp_jax.api.digests import weights_digest
from vlp_jax.api.drawing import BATCH, Asked, Job, Painter, Size, drawer, numbered, read_picture
from vlp_jax.api.embed import chunks
from vlp_jax.api.embeddings import Progress
from vlp_jax.api.files import check_writable
from vlp_jax.api.forward import parse_options
from vlp_jax.api.lora import strengths
from vlp_jax.api.model import Model, load_model
from vlp_jax.api.stop import stoppable
from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.schema import build
from vlp_jax.core.strict_json import dumps, plain
from vlp_jax.data.encoding import read_text
from vlp_jax.diffusion.how import Drawing
from vlp_jax.methods.base import Function
from vlp_jax.parallel.hosts import from_first
from vlp_jax.parallel.startup import first_process, start_jax
from vlp_jax.report.drawn import MOST, drawn_sheet

SETTINGS = "settings"  # the key of a PNG's metadata
TABLE, SHEET = "samples.jsonl", "contact_sheet.png"
TOLD = ("checkpoint", "parts", "lora")  # settings that the digest of the weights stands for


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command is asked for.

    Attributes:
      checkpoint: a converted checkpoint or a training workdir.
      out: the folder to write.
      prompt: one; prompts: a file with one a line; neither where the model draws without.
      given: {negative, image, mask: a text or a file}; control: files, one for each control.
      pictures: NAME:FILE, of other fields (low, depth, map).
      how: options of the model's `generate_image`. words: further ones, KEY=VALUE.
      size: HxW; "" is that of the given pictures, or the model's own.
      parts: NAME:CHECKPOINT[:ITS NAME], parts of others; a name that comes again stands for NAME_0,
        NAME_1, ...
      lora: FILE or FILE:STRENGTH, adapters.
    """

    checkpoint: str
    out: str
    prompt: str | None = None
    prompts: str = ""
    given: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    control: Sequence[str] = ()
    pictures: Sequence[str] = ()
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    words: Sequence[str] = ()
    size: str = ""
    seed: int = 0
    n: int = 1
    batch_size: int = BATCH
    parts: Sequence[str] = ()
    lora: Sequence[str] = ()
    sharding: str = ""


def draw(request: Request) -> dict[str, Any]:
    """Writes the folder; returns {out, pictures, kept (were there), sheet, seconds}, in a job the
    first process alone.

    Raises:
      UserError: as api/drawing.py Painter, files that cannot be read, a folder that cannot be
        written or holds pictures of other settings. RunError: the disk.
    """
    start = time.perf_counter()
    with by_flag():
        given = _check(request)
        size, prompts = _size(request.size), _prompts(request)
        parts, lora = _parts(request.parts), strengths(request.lora)
    check_writable("--out", request.out)
    start_jax()
    with stoppable("pictures that are whole are kept") as check, by_flag():
        model = load_model(request.checkpoint, request.sharding, None, parts, lora)
        function = drawer(model)
        given |= _controls(function.reads, given.pop("control"))
        given |= request.how | _set(function, request.words)
        asked = Asked(prompts, request.seed, request.n, size, given)
        folder = Folder(request, model, Painter(model, asked, request.batch_size))
        kept = folder.fill(check.part)
    if not first_process():
        return {}
    count, sheet = len(folder.painter.jobs), folder.finish()
    seconds = round(time.perf_counter() - start, 2)
    return dict(out=request.out, pictures=count, kept=kept, sheet=sheet, seconds=seconds)


class Folder:
    """The folder of the command: what is in it, and what is to be."""

    def __init__(self, request: Request, model: Model, painter: Painter):
        self._path, self._size, self.painter = request.out, request.batch_size, painter
        digest = lambda a: hashlib.blake2b(a.tobytes(), digest_size=8).hexdigest()  # noqa: E731
        self._pictures = {
            i: {name: digest(pixels) for name, pixels in painter.pictures(i).items()}
            for i in {job.prompt for job in painter.jobs}
        }
        self._model = {name: getattr(request, name) for name in TOLD}
        self._model["weights"] = weights_digest(model)

    def fill(self, check: Callable[[], None]) -> int:
        """Draws what is not there; returns how many pictures were. All processes call it, and
        `check` before every batch.

        A batch that lacks one picture is drawn whole, so that none depends on where a run stopped.
        """
        known = self.whole() if first_process() else []
        kept = set(json.loads(from_first(dumps(known))))
        batches = list(chunks(self.painter.jobs, self._size))
        todo = [jobs for jobs in batches if not kept.issuperset(map(self.name, jobs))]
        progress = Progress(sum(map(len, todo)), "sample")
        for jobs in todo:
            check()
            made = self.painter(jobs)
            for job, pixels in zip(jobs, made, strict=True):
                if first_process() and self.name(job) not in kept:
                    self.write(job, pixels)
            progress.add(len(jobs))
        progress.end()
        return len(kept)

    def name(self, job: Job) -> str:
        """00003_00000.png: prompt and seed."""
        return f"{job.prompt:05}_{job.seed:05}.png"

    def settings(self, job: Job) -> dict[str, Any]:
        """All that a picture is made from, as its PNG and the table hold it."""
        said = self.painter.said(job.prompt)
        pictures = self._pictures[job.prompt]
        own = {"seed": job.seed, "how": dataclasses.asdict(self.painter.how)}
        return plain({**said, **own, "pictures": pictures, **self._model})

    def whole(self) -> list[str]:
        """The names of the pictures that are there. Raises UserError for one of other settings."""
        found = []
        for job in self.painter.jobs:
            path = os.path.join(self._path, self.name(job))
            if os.path.lexists(path):
                _check_same(path, self.settings(job))
                found.append(self.name(job))
        return found

    def write(self, job: Job, pixels: np.ndarray) -> None:
        """Writes a picture whole or not at all, its prompt as a caption beside it first. Raises
        RunError: the disk."""
        path, settings = os.path.join(self._path, self.name(job)), self.settings(job)
        info = PngInfo()
        info.add_text("Software", f"vlp_jax {__version__}")
        info.add_text(SETTINGS, dumps(settings))
        if settings.get("text"):
            _replace(f"{path.removesuffix('.png')}.txt", settings["text"].encode())
        _replace(path, lambda file: Image.fromarray(pixels).save(file, "PNG", pnginfo=info))

    def finish(self) -> str:
        """Writes the table and the contact sheet; returns the path of the latter."""
        jobs = self.painter.jobs
        rows = [{"image": self.name(job), **self.settings(job)} for job in jobs]
        lines = [dumps(row, ensure_ascii=False) + "\n" for row in rows]
        _replace(os.path.join(self._path, TABLE), "".join(lines).encode())
        shown = [os.path.join(self._path, row["image"]) for row in rows[:MOST]]
        words = [str(row.get("text", row.get("label", ""))) for row in rows[:MOST]]
        words = [f"{row['seed']}: {word}" for word, row in zip(words, rows, strict=False)]
        per_prompt = sum(job.prompt == jobs[0].prompt for job in jobs)
        out = os.path.join(self._path, SHEET)
        return drawn_sheet(shown, words, out, per_prompt, len(jobs))


FLAGS = ("sampler", "steps", "guidance", "strength")  # options with a flag of their own
_NAMES = ("image", "mask", "control", "negative", "prompts", "seed", "n", "size", "lora", *FLAGS)
_SET = tuple(f.name for f in dataclasses.fields(Drawing) if f.name not in FLAGS)
_FLAGS = {  # what an error begins with -> the flag
    re.compile(r"^parts\.(\w+)="): r"--with=\1:",
    re.compile(rf"^(?:sample\.)?({'|'.join(_NAMES)})(_\d+)?(\[\d+\])?(?=[:=])"): r"--\1",
    re.compile(rf"^(?:sample\.(\w+)|({'|'.join(_SET)}))(?=[:=])"): r"--set=\1\2",
    re.compile(r"^(low|depth|map)(?=:)"): r"--picture=\1",
}


@contextmanager
def by_flag() -> Iterator[None]:
    """Names fields and options by their flags in errors that begin with one."""
    try:
        yield
    except UserError as error:
        said = str(error)
        for key, flag in _FLAGS.items():
            said = key.sub(flag, said)
        raise UserError(said) from error


def _check(request: Request) -> dict[str, Any]:
    """What can be read without the model: {negative, image, mask, control: [pictures]}. Raises
    UserError: it cannot, or options that are none."""
    known = {field.name for field in dataclasses.fields(Drawing)}
    build(Drawing, {key: value for key, value in request.how.items() if key in known}, "sample")
    if request.batch_size < 1:
        raise UserError(f"--batch-size={request.batch_size}: must be at least 1")
    given = {name: value for name, value in request.given.items() if value is not None}
    files = {name: given[name] for name in given.keys() & {"image", "mask"}}
    files |= dict(_pairs("picture", request.pictures))
    given |= {name: read_picture(name, path) for name, path in files.items()}
    return given | {"control": [read_picture("control", path) for path in request.control]}


def _prompts(request: Request) -> list[str] | None:
    """Those of the flag, or lines of the file. Raises UserError: both, or a file without any."""
    if not request.prompts:
        return None if request.prompt is None else [request.prompt]
    if request.prompt is not None:
        raise UserError("--prompt and --prompts: give one of them")
    try:
        text = read_text(request.prompts)
    except UserError as error:
        raise UserError(f"prompts: {error}") from error
    lines = text.removesuffix("\n").split("\n") if text else []  # U+2028 ends none
    if not any(lines):
        raise UserError(f"prompts: {request.prompts}: holds no prompt")
    return [line.removesuffix("\r") for line in lines]


def _size(text: str) -> Size | None:
    """(512, 768) of 512x768. Raises UserError."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if text and not found:
        raise UserError(f"--size={text}: must be HxW, height and width in pixels, as in 512x768")
    return (int(found[1]), int(found[2])) if found else None


def _pairs(flag: str, words: Sequence[str]) -> list[tuple[str, str]]:
    """(NAME, PATH) of NAME:PATH words. Raises UserError for another word."""
    pairs = [word.partition(":")[::2] for word in words]
    for word, (name, path) in zip(words, pairs, strict=True):
        if not name or not path:
            raise UserError(f"--{flag}={word}: must be NAME:PATH")
    return [(name, os.path.expanduser(path)) for name, path in pairs]


def _parts(words: Sequence[str]) -> dict[str, str]:
    """{part: checkpoint}; of parts of one name NAME_0, NAME_1, ... Raises UserError as `_pairs`."""
    pairs = _pairs("with", words)
    names = [name for name, _ in pairs]
    several = {name for name in names if names.count(name) > 1}
    count: Counter = Counter()
    found = {}
    for name, folder in pairs:
        found[f"{name}_{count[name]}" if name in several else name] = folder
        count[name] += 1
    return found


def _controls(reads: Mapping[str, Any], maps: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Control maps by the fields that take them, in order. Raises UserError for more maps."""
    names = numbered(reads, "control")
    if len(maps) > len(names):
        more = "--with=control:CHECKPOINT adds one"
        raise UserError(f"control: {len(maps)} given, the model takes {len(names)}; {more}")
    return dict(zip(names, maps, strict=False))


def _set(function: Function, words: Sequence[str]) -> dict[str, Any]:
    """Options of KEY=VALUE words. Raises UserError for an unknown one."""
    found = parse_options(function, words)
    known = function.keys()
    for key in found:
        if key not in known:
            raise UserError(f"--set={key}: unknown key{nearest(key, known)}")
    return found


def _check_same(path: str, settings: Mapping[str, Any]) -> None:
    """Raises UserError for a file that is no picture of these settings."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            found = json.loads(image.info[SETTINGS])
            image.load()  # to its end
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        hint = "is no picture that `sample` drew; choose another --out"
        raise UserError(f"{path}: {hint}") from error
    for key in [key for key in {**settings, **found} if key not in TOLD]:
        if found.get(key) != settings.get(key):
            raise UserError(f"{path}: was drawn with another {key}; choose another --out")


def _replace(path: str, content: Any) -> None:
    """Writes bytes, or what f(file) writes, whole or not at all. Raises RunError: the disk."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(f"{path}.partial", "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.partial", path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error

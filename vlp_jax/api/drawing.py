"""Pictures that a model draws, from prompts, pictures, masks and control maps: what `Model.sample`
and the command `sample` do.

All of it goes through the method's function `generate_image`: what that reads says what is asked
for. The file exists so that a command and a notebook draw the same pictures, by whatever method.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vlp_jax.api.compose import stem_of
from vlp_jax.api.embed import Batching, chunks
from vlp_jax.api.pictures import check_list, check_texts, whole
from vlp_jax.api.placement import fill, runner
from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.fields import NONE, Field, Label, Picture, Text
from vlp_jax.core.inputs import Vars
from vlp_jax.methods.base import Function

_log = logging.getLogger(__name__)

NAME = "generate_image"
BATCH = 8  # pictures at once
SEEDS = 2**31  # a seed is the number of a row, int32

Size = tuple[int, int]  # height and width in pixels


class Job(NamedTuple):
    """A picture: the number of its prompt, and its seed."""

    prompt: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be drawn.

    Attributes:
      prompts: texts, or numbers of classes; None where the model draws without.
      seed: of every prompt's first picture, or one for each prompt; its others follow.
      n: pictures of a prompt.
      size: None is that of the given pictures, or the model's own.
      given: {field of the function, or one of its options: value}. A text or a picture is for all
        prompts, a list or uint8[N, H, W, 3] has one for each.
    """

    prompts: Sequence[str] | Sequence[int] | str | None = None
    seed: int | Sequence[int] = 0
    n: int = 1
    size: Size | None = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def sample(model: Any, asked: Asked, batching: Batching | None = None) -> list[Image.Image]:
    """Pictures in the order of their prompts, n of each. Raises UserError as `Painter`."""
    batching, made = batching or Batching(BATCH), []
    painter = Painter(model, asked, batching.size)
    for jobs in chunks(painter.jobs, batching.size):
        made += map(Image.fromarray, painter(jobs))
        batching.told(len(jobs))
    return made


class Painter:
    """A model that draws in one way: a picture for each job of a batch.

    A picture depends on what it is asked for and on its seed alone, not on the others of its batch,
    and one program draws all.

    Attributes:
      jobs: all pictures that are asked for. how: the options. size: see Asked.

    Args:
      batch_size: rows that every batch is filled up to.

    Raises:
      UserError: the model draws nothing, or not from what is given; no prompts where it needs some;
        a picture that cannot be read or is of another size; options that say nothing.
    """

    def __init__(self, model: Any, asked: Asked, batch_size: int = BATCH):
        self._path, self._function = model.path, drawer(model)
        fields, options = self._split(asked.given)
        self._prompts = self._read_prompts(asked.prompts, fields)
        self.jobs = _jobs(len(self._prompts), asked)
        self._values = {}
        for name, field in self._function.reads.items():
            if values := self._read(name, field, fields):
                self._values[name] = values
        self._tell_absent()
        self._sized = asked.size is not None
        self.size = self._size(asked.size)
        self.how = self._options(options, model.config.get("drawing", {}))
        self._rows = self._arrays(model)
        self._batch_size = min(batch_size, len(self.jobs))
        self._run = runner(model.method, NAME, Vars(model.params, model.extra), model.mesh)

    def __call__(self, jobs: Sequence[Job]) -> list[np.ndarray]:
        """Their pictures, uint8[H, W, 3] each. Raises UserError for a size that the model cannot
        draw, before anything is compiled; RunError for a picture that is not finite."""
        at = [job.prompt for job in jobs]
        batch = {
            name: rows[at] if len(rows) > 1 else np.repeat(rows, len(at), axis=0)
            for name, rows in self._rows.items()
        }
        batch = {name: fill(rows, self._batch_size) for name, rows in batch.items()}
        index = fill(np.array([job.seed for job in jobs], np.int32), self._batch_size)
        try:
            drawn = self._run(batch, self.how, index)["image"]
        except UserError as error:
            first = next(iter(self._of(Picture)), "")
            said = f"{first}: {error}" if first and not self._sized else str(error)
            raise UserError(said) from error
        return [_pixels(row, job) for row, job in zip(drawn, jobs, strict=False)]

    def said(self, prompt: int) -> dict[str, str | int]:
        """{field: text or class} of a prompt."""
        return {n: _own(values, prompt) for n, values in self._of(Text, Label).items()}

    def pictures(self, prompt: int) -> dict[str, np.ndarray]:
        """{field: uint8[H, W, C]} of a prompt."""
        return {n: _own(values, prompt) for n, values in self._of(Picture).items()}

    def _of(self, *kinds: type) -> dict[str, list[Any]]:
        """The values of these kinds of fields."""
        reads = self._function.reads
        return {n: values for n, values in self._values.items() if isinstance(reads[n], kinds)}

    @property
    def _conditions(self) -> list[Field]:
        """What the prompts are read as: texts or a class that every picture needs."""
        fields = self._function.reads.values()
        return [f for f in fields if isinstance(f, Text | Label) and not f.optional]

    def _split(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(fields, options). Raises UserError for what is neither."""
        reads, known = self._function.reads, {*self._function.reads, *self._function.keys()}
        for name in given:
            if name not in known:
                hint = nearest(name, known)
                raise UserError(f"{name}: {self._path} takes no such thing to draw from{hint}")
        given = {name: value for name, value in given.items() if value is not None}
        fields = {name: value for name, value in given.items() if name in reads}
        return fields, {name: value for name, value in given.items() if name not in reads}

    def _read_prompts(self, prompts: Any, fields: Mapping[str, Any]) -> list[Any]:
        """The prompts; of a model that draws without a None for each picture that is given, or
        one."""
        kinds = self._conditions
        if not kinds:
            if prompts is not None:
                raise UserError(f"prompts: {self._path} draws without; n says how many")
            lists = [len(value) for value in fields.values() if isinstance(value, list | tuple)]
            return [None] * max(lists, default=1)
        (texts, *_) = (isinstance(field, Text) for field in kinds)
        if prompts is None:
            words = "texts" if texts else f"classes, numbers from 0 to {kinds[0].classes - 1}"
            raise UserError(f"prompts: {self._path} draws from {words}; give some")
        prompts = [prompts] if isinstance(prompts, str) else check_list(prompts, "prompts")
        if texts:
            return check_texts(prompts, "prompts")
        return [_class(i, value, kinds[0].classes) for i, value in enumerate(prompts)]

    def _read(self, name: str, field: Field, fields: Mapping[str, Any]) -> list[Any]:
        """The values of a field, one for all prompts or one for each; [] where it is left out. A
        text NAME_2 is that of NAME where nothing else is said."""
        given, said = fields.get(name), isinstance(field, Text | Label)
        if given is None and said:
            given = fields.get(stem_of(name)) if field.optional else self._prompts
        if given is None:
            if not field.optional:
                raise UserError(f"{name}: {self._path} draws from one; give it")
            return []
        several = isinstance(given, list | tuple) or getattr(given, "ndim", 0) == 4
        several |= not (said or isinstance(field, Picture))  # numbers
        listed = list(given) if several else [given]
        if len(listed) not in (1, len(self._prompts)):
            count = len(self._prompts)
            raise UserError(f"{name}: {len(listed)} for {count} prompts; give one of each")
        if isinstance(field, Text):
            return check_texts(listed, name)
        if isinstance(field, Picture):
            places = [f"{name}[{i}]" if several else name for i in range(len(listed))]
            return [read_picture(*one) for one in zip(places, listed, strict=True)]
        return listed

    def _tell_absent(self) -> None:
        """Logs the controls that have no map: the model draws as without them."""
        names = numbered(self._function.reads, "control")
        if absent := [name for name in names if name not in self._values]:
            _log.warning("no control map for %s: adds nothing to the picture", ", ".join(absent))

    def _size(self, size: Size | None) -> Size | None:
        """The size that is asked for, or that the given pictures have or, where a field is smaller
        than others (a picture of low resolution), lead to. Raises UserError for another one."""
        fields = {n: f for n, f in self._function.reads.items() if isinstance(f, Picture)}
        most = max((field.size for field in fields.values()), default=1)
        whose = "the pictures to draw are"
        for name, several in self._of(Picture).items():
            for picture in several:
                found = tuple(side * most // fields[name].size for side in picture.shape[:2])
                size, whose = (size, whose) if size else (found, f"{name} is")
                if found != tuple(size):
                    said = f"{name}: is {_by(picture.shape)} (height x width)"
                    leads = f", which makes {_by(found)}" if fields[name].size < most else ""
                    raise UserError(f"{said}{leads}, {whose} {_by(size)}")
        return size and (int(size[0]), int(size[1]))

    def _options(self, options: dict[str, Any], usual: Mapping[str, Any]) -> Any:
        """The options, with the model's `usual` ones and those that follow from what is given.
        Raises UserError for some that say nothing."""
        keys, values = self._function.keys(), self._values
        if self.size and "height" in keys:
            options |= dict(height=self.size[0], width=self.size[1])
        elif self._sized:
            raise UserError(f"size: {self._path} draws pictures of one size")
        usual = {key: value for key, value in usual.items() if key in keys}
        how = self._function.options(usual | options, "sample")
        if "guided" in keys and "guided" not in options:
            guided = bool(self._conditions) and how.guidance != 1
            how = dataclasses.replace(how, guided=guided)
        if "guidance" in options and not self._conditions:
            raise UserError(f"guidance: {self._path} draws without prompts")
        if "negative" in values and not getattr(how, "guided", True):
            raise UserError("negative: says nothing at guidance 1")
        if "strength" in options and "image" not in values:
            raise UserError("strength: is how far to go from a picture; give an image")
        if "mask" in values and "image" not in values:
            raise UserError("mask: is painted over in a picture; give an image")
        alone = "image" in values and self._function.reads["image"].optional
        if alone and "mask" not in values and "strength" in keys and "strength" not in options:
            raise UserError("image: give a strength, from 0 (the picture as it is) to 1; often 0.8")
        return how

    def _arrays(self, model: Any) -> dict[str, np.ndarray]:
        """{array: [1 or as many as prompts, ...]} of all that the function is given; a negative
        that nobody asked for as NONE, so that the same program draws without."""
        found: dict[str, np.ndarray] = {}
        for name, field in self._function.reads.items():
            if getattr(self.how, "guided", False) and isinstance(field, Text) and field.absent:
                length = model.tokenizer(field.tokenizer).context_length
                found[name] = np.full((1, length), NONE, np.int32)
        for name, values in self._values.items():
            field = self._function.reads[name]
            if isinstance(field, Text):
                arrays = model.text_arrays(field, name)
                found |= arrays(values)
                arrays.tell()
            else:
                spec = field.spec(name, 1)[name]
                found[name] = np.stack([_as_spec(value, spec) for value in values])
        return found


def drawer(model: Any) -> Function:
    """The function of a model that draws. Raises UserError: it has none."""
    functions = model.method.functions()
    if NAME not in functions:
        method = model.config["method"]["name"]
        raise UserError(f"{model.path}: its method {method!r} draws no pictures")
    return functions[NAME]


def read_picture(name: str, picture: Any) -> np.ndarray:
    """uint8[H, W, C] for a field, or a place in its list; of masks (`mask`) one channel. Raises
    UserError as api/pictures.py `whole`, naming it."""
    try:
        return whole(picture, name.partition("[")[0] == "mask")
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def numbered(reads: Mapping[str, Any], stem: str) -> list[str]:
    """The fields NAME, or NAME_0, NAME_1, ..., of a function."""
    return [name for name in reads if stem_of(name) == stem]


def _own(values: Sequence[Any], prompt: int) -> Any:
    return values[prompt if len(values) > 1 else 0]


def _class(number: int, value: Any, classes: int) -> int:
    """The number of a class, or its digits."""
    digits = isinstance(value, str) and value.strip().isdecimal()
    found = int(value) if digits else value
    if isinstance(found, int | np.integer) and 0 <= found < classes:
        return int(found)
    raise UserError(f"prompts[{number}]: {value!r} is no class, a number from 0 to {classes - 1}")


def _jobs(count: int, asked: Asked) -> list[Job]:
    """The pictures of that many prompts. Raises UserError for numbers that are none."""
    alone, most = isinstance(asked.seed, int | np.integer), SEEDS - asked.n
    seeds = [asked.seed] * count if alone else list(asked.seed)
    if asked.n < 1:
        raise UserError(f"n={asked.n}: must be at least 1")
    if most < 0:
        raise UserError(f"n={asked.n}: there are {SEEDS} seeds")
    if len(seeds) != count:
        raise UserError(f"seed: {len(seeds)} for {count} prompts; give one of each")
    for seed in seeds:
        if not isinstance(seed, int | np.integer) or not 0 <= seed <= most:
            raise UserError(f"seed={seed}: must be a whole number from 0 to {most}")
    return [Job(i, int(seed) + k) for i, seed in enumerate(seeds) for k in range(asked.n)]


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _as_spec(value: Any, spec: Any) -> np.ndarray:
    """A row in the field's dtype; a picture of one channel with as many as the field has."""
    row = np.asarray(value, spec.dtype)
    wide = row.ndim == 3 and row.shape[2] == 1
    return np.repeat(row, spec.shape[-1], axis=2) if wide else row


def _pixels(picture: np.ndarray, job: Job) -> np.ndarray:
    """uint8 as it is; float32 in [-1, 1] as uint8. Raises RunError for what is no number."""
    if picture.dtype == np.uint8:
        return picture
    picture = picture.astype(np.float32)
    if not np.isfinite(picture).all():
        whose = f"the picture of prompt {job.prompt} and seed {job.seed}"
        raise RunError(f"{whose} is not finite: the weights, or too much guidance")
    return np.uint8(np.clip(np.round((picture + 1) * 127.5), 0, 255))

"""Weights of other runs and of converted checkpoints as a run's first ones: `init_from`.

It is a folder (everything of it), `FOLDER:REGEX` (their paths that match), or {our prefix:
"FOLDER[:their prefix]"}, from several folders, batch statistics too. After their prefix may stand
which of stacked layers are taken, as Python slices: `BERT:text/blocks/mlp[1::2]`.

Every leaf is told as loaded, resized, unused or fresh, and one that is asked for and missing is an
error unless `fresh` names it; what `fresh` names begins anew though a source holds it, with a
warning.
The file exists so that what a run starts from is decided by names and shapes, before anything is
compiled.
"""

import dataclasses
import functools
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vlp_jax.api.files import split
from vlp_jax.api.switches import differing, keep_new_rows, unlike_fields
from vlp_jax.core import adapters
from vlp_jax.core.adapters import NEW_ROWS
from vlp_jax.core.errors import UserError, count_of, nearest, no_download
from vlp_jax.core.fields import Text
from vlp_jax.core.pytree import check_matched, flatten, matches, merge
from vlp_jax.interop.folder import MANIFEST, is_folder, read_folder
from vlp_jax.interop.position import resize_pos_embed
from vlp_jax.interop.preprocess import SOURCE
from vlp_jax.methods.base import STATS, make_method
from vlp_jax.parallel.mesh import replicated
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.progress import show
from vlp_jax.train.settings import check_pattern
from vlp_jax.train.trainer import Trainer
from vlp_jax.train.workdir import read_config

NAMED = 3  # paths that a line names
_LAYERS = re.compile(r"(.*)\[(\d*):(\d*)(?::([1-9]\d*))?\]")


@dataclasses.dataclass(frozen=True)
class Source:
    """One entry of `init_from`.

    Attributes:
      text: as the user wrote it. folder: where the weights are.
      ours, theirs: prefixes of paths, "" for all; pattern: regex over their paths, "" for all.
      layers: which of stacked layers, the arguments of a slice; () for all.
    """

    text: str
    folder: str
    ours: str = ""
    theirs: str = ""
    pattern: str = ""
    layers: tuple[int | None, ...] = ()

    def name(self, path: str) -> str:
        """Our path of their leaf; "" where it is not asked for.

        >>> Source("", "W", "image", "vision").name("batch_stats/vision/norm/mean")
        'batch_stats/image/norm/mean'
        """
        if self.pattern and not matches(path, (self.pattern,)):
            return ""
        stem = stem_of(path)
        rest = path.removeprefix(stem)
        return stem + self.ours + rest[len(self.theirs) :] if under(rest, self.theirs) else ""

    def asks(self, path: str) -> bool:
        """Whether it must give this leaf of ours: a regex asks for nothing by itself."""
        return not self.pattern and under(path.removeprefix(stem_of(path)), self.ours)


def stem_of(path: str) -> str:
    """What stands before the name of the part: `batch_stats/` or nothing."""
    return f"{STATS}/" if path.startswith(f"{STATS}/") else ""


def under(path: str, prefix: str) -> bool:
    """Whether a path is a prefix (whole names of it) or lies below."""
    return not prefix or path == prefix or path.startswith(f"{prefix}/")


@dataclasses.dataclass
class Told:
    """What became of the leaves of one source, by their paths.

    anew: those that fit, but ours begin anew, as `fresh` says.
    """

    loaded: list[str] = dataclasses.field(default_factory=list)
    resized: list[str] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    anew: list[str] = dataclasses.field(default_factory=list)

    def line(self) -> str:
        """3 loaded, 1 resized (image/pos_embed), 0 unused; and 2 anew (...) where there are any."""
        parts = (
            f"{len(paths)} {name}{some(paths) if name != 'loaded' else ''}"
            for name, paths in vars(self).items()
            if paths or name != "anew"
        )
        return ", ".join(parts)


def some(paths: list[str]) -> str:
    """The first paths in brackets."""
    more = ", ..." if len(paths) > NAMED else ""
    return f" ({', '.join(paths[:NAMED])}{more})" if paths else ""


def sources(init_from: Any) -> list[Source]:
    """The entries of `config.init_from`, the longest prefix first, which wins. Raises UserError
    where one is empty, or what follows a folder for everything is no regular expression.
    """
    if isinstance(init_from, str):
        folder, rest = split(init_from)
        check_pattern("init_from", rest)
        return [Source(init_from, folder, pattern=rest)]
    found = []
    for ours in sorted(init_from, key=len, reverse=True):
        folder, rest = split(init_from[ours])
        if not folder:
            raise UserError(f"init_from.{ours} is empty: a folder with weights of {ours}, or none")
        text, some = f"{ours}={init_from[ours]}", _LAYERS.fullmatch(rest)
        layers = ()
        if some:
            rest, layers = some[1], tuple(int(n) if n else None for n in some.groups()[1:])
        found.append(Source(text, folder, ours, rest or ours, layers=layers))
    return found


class Read(NamedTuple):
    """A source that was read.

    Attributes:
      arrays: {path: tensor} of a converted folder, unread, or {path: array} of a workdir's newest
        checkpoint, under the sharding of the run that reads it.
      method: the config of what they are weights of; {} where that is not known.
      pictures: the preprocessing that a converted folder tells.
    """

    arrays: dict[str, Any]
    method: Mapping[str, Any]
    pictures: Mapping[str, Any]


def read_weights(folder: str, trainer: Trainer) -> Read:
    """Reads a converted folder or a workdir.

    Raises:
      UserError: neither of them.
    """
    if is_folder(folder):
        arrays, manifest = read_folder(folder)
        return Read(arrays, manifest["method"], SOURCE | manifest["preprocessing"])
    if not os.path.isdir(folder):
        raise UserError(f"init_from: {folder}: no such folder{no_download(folder)}")
    checkpoints = os.path.join(folder, "checkpoints")
    if not os.path.isdir(checkpoints):
        raise UserError(
            f"init_from: {folder}: neither a converted checkpoint ({MANIFEST}) nor a training "
            "workdir"
        )
    where = functools.partial(param_sharding, mesh=trainer.mesh, preset=trainer.config.sharding)
    _, state = Checkpoints(checkpoints).restore_model(where)
    params = merge(state["ema"] or state["params"], state["frozen"])
    if not trainer.recipe.adapt.rank:
        params = adapters.fold(params)
    method = read_config(folder)["method"] if (Path(folder) / "config.json").is_file() else {}
    return Read(flatten({**params, **state["extra"]}), method, {})


class Weights:
    """The weights that `init_from` gives a run, checked by name and shape.

    Attributes:
      weights: {our path: array or tensor}. told: {source: Told}. fresh: paths of ours that none
        gave.

    Raises:
      UserError: names every leaf that does not fit, or the first frozen one that none gives.
    """

    def __init__(self, trainer: Trainer):
        state, frozen = trainer.abstract
        self.trainer = trainer
        params = merge(state["params"], frozen)
        self.ours = flatten({**params, **state["extra"]})
        self.renewed = tuple(trainer.config.get("fresh", ()))
        check_matched("fresh", self.renewed, {**params, **state["extra"]})
        self.weights: dict[str, Any] = {}
        self.told: dict[str, Told] = {}
        self._notes: dict[str, list[str]] = {}
        self._wrong: dict[str, str] = {}
        self._read: list[tuple[dict[str, str], Mapping[str, Any]]] = []
        self._folders = functools.cache(lambda folder: read_weights(folder, trainer))
        found = sources(trainer.config.init_from)
        for source in found:
            self._take(source)
        self._start_words()
        needed = [path for path in self.ours if under(path, STATS) or path.split("/")[0] in params]
        self.fresh = [path for path in needed if path not in self.weights]
        asked = [path for path in self.fresh if any(source.asks(path) for source in found)]
        lines = list(self._wrong.values())
        anew = (*self.renewed, *adapters.ANEW)
        spared = [path for path in asked if path in self._wrong or matches(path, anew)]
        lines += [f"missing {path}" for path in asked if path not in spared]
        if lines:
            odd = parts_of(dict.fromkeys([*self._wrong, *asked], ""))
            hints = [
                hint for named, method in self._read for hint in self._hints(named, method, odd)
            ]
            hint = "; ".join(hints) or "`fresh` names what is to start anew"
            if hints and len(lines) > NAMED:
                lines[NAMED:] = [f"and {len(lines) - NAMED} more"]
            texts, lines = ", ".join(source.text for source in found), "; ".join(lines)
            raise UserError(f"init_from={texts}: does not fit: {lines} ({hint})")
        trainer.check_given(self.weights)

    def _start_words(self) -> None:
        """New words of a vocabulary start as the mean row of the words that they are given for
        (data/text/grown.py)."""
        for name, tokenizer in self.trainer.tokenizers.items():
            new, table = (f"{name}/token_embed/{leaf}" for leaf in (NEW_ROWS, "embedding"))
            starts = getattr(tokenizer, "starts", ())
            if new in self.weights or new not in self.ours or table not in self.weights:
                continue
            if all(starts) and len(starts) == self.ours[new].shape[0]:
                rows = on_host(self.weights[table], self.trainer)
                self.weights[new] = np.stack([rows[list(ids)].mean(0) for ids in starts])

    def _take(self, source: Source) -> None:
        """Adds the leaves of one source."""
        names = [path.removeprefix(stem_of(path)) for path in self.ours]
        if not any(under(name, source.ours) for name in (*self.ours, *names)):
            hint = nearest(source.ours, {name.split("/")[0] for name in names})
            raise UserError(f"init_from.{source.ours}: the method has no such weights{hint}")
        theirs, method, pictures = self._folders(source.folder)
        told = self.told[source.text] = Told()
        given = {*self.weights, *self._wrong}  # by a longer prefix
        named = {source.name(path): path for path in theirs if source.name(path)}
        if not named:
            tops = {path.removeprefix(stem_of(path)).split("/")[0] for path in theirs}
            what = f"no path matches{nearest(source.theirs or source.pattern, tops)}"
            raise UserError(f"init_from={source.text}: {what}")
        for path, its in named.items():
            if path not in self.ours or path in given:
                told.unused.append(its)
                continue
            leaf, wanted = theirs[its], tuple(self.ours[path].shape)
            leaf = leaf[slice(*source.layers)] if source.layers and leaf.shape else leaf
            same, renewed = tuple(leaf.shape) == wanted, matches(path, self.renewed)
            fits = leaf if same else self._resize(path, leaf)
            if renewed:
                (told.unused if fits is None else told.anew).append(its)
            elif fits is None:
                self._wrong[path] = f"{path} is {list(leaf.shape)}, needs {list(wanted)}"
            else:
                (told.loaded if same else told.resized).append(its)
                self.weights[path] = fits
        named = {path: its for path, its in named.items() if path not in given}
        self._read.append((named, method))
        self._notes[source.text] = [
            *other_networks(named, method, self.trainer),
            *(other_pictures(pictures, self.trainer) if "image" in parts_of(named) else []),
        ]

    def _hints(
        self, named: Mapping[str, str], method: Mapping[str, Any], odd: Mapping[str, str]
    ) -> list[str]:
        """What `fitting` says of those parts of a source that do not fit."""
        parts = {our: its for our, its in parts_of(named).items() if our in odd}
        return fitting(parts, method, self.trainer)

    def _resize(self, path: str, leaf: Any) -> np.ndarray | None:
        """Learned positions of a grid of patches, resized as open_clip does it; a first convolution
        that sees further channels, which start as zeros (inpainting); words that are the method's
        own, which start as the mean of all; None for others."""
        tower, _, name = path.rpartition("/")
        shape = self.ours[path].shape
        more = shape[-2] - leaf.shape[-2] if path.endswith("conv_in/kernel") else 0
        if more > 0 and leaf.shape == (*shape[:-2], shape[-2] - more, shape[-1]):
            whole = on_host(leaf, self.trainer)
            return np.concatenate([whole, np.zeros((*shape[:-2], more, shape[-1]), np.float32)], -2)
        own = shape[0] - leaf.shape[0] if path.endswith("token_embed/embedding") else 0
        if 0 < own <= self._own_words() and leaf.shape[1:] == shape[1:]:
            whole = on_host(leaf, self.trainer)
            return np.concatenate([whole, np.repeat(whole.mean(0, keepdims=True), own, 0)])
        grid = name == "pos_embed" and f"{tower}/patch_embed/kernel" in self.ours
        if not grid or len(leaf.shape) != 2 or leaf.shape[1] != shape[1]:
            return None
        try:
            whole = on_host(leaf, self.trainer)
            return resize_pos_embed(whole, shape[0], int(f"{tower}/cls_token" in self.ours))
        except UserError:  # no square grid
            return None

    def _own_words(self) -> int:
        """Words that the method adds to a tokenizer's ([DEC] of BLIP)."""
        texts = (f for f in self.trainer.method.fields().values() if isinstance(f, Text))
        return max((field.own for field in texts), default=0)

    def show(self) -> None:
        """Tells what became of the leaves, one line a source, once a process."""
        for text, told in self.told.items():
            _show(f"init_from {text}: {told.line()}")
        if self.fresh:
            _show(f"init_from: {len(self.fresh)} fresh{some(self.fresh)}")
        for text, notes in self._notes.items():
            for note in notes:
                _show(f"note: init_from={text}: {note}")
        for text, told in self.told.items():
            if told.anew:
                held = f"{count_of(len(told.anew), 'weight')} that it holds{some(told.anew)}"
                takes = "--config.fresh='()' takes them"
                _show(f"warning: init_from={text}: `fresh` begins anew {held}; {takes}")

    def record(self) -> dict[str, Any]:
        """Every path, for the workdir: {"from": {source: vars(Told)}, "fresh"}."""
        return {"from": {text: vars(told) for text, told in self.told.items()}, "fresh": self.fresh}


@functools.cache
def _show(line: str) -> None:
    show(line, last=True)


def on_host(leaf: Any, trainer: Trainer) -> np.ndarray:
    """A small array as every process has it whole."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = jax.device_put(leaf, replicated(trainer.mesh)).addressable_data(0)
    return np.asarray(leaf, np.float32)


def parts_of(named: Mapping[str, str]) -> dict[str, str]:
    """{our part: theirs} of {our path: theirs}."""
    first = lambda path: path.removeprefix(stem_of(path)).split("/")[0]  # noqa: E731
    return {first(ours): first(theirs) for ours, theirs in named.items()}


def other_networks(
    named: Mapping[str, str], method: Mapping[str, Any], trainer: Trainer
) -> list[str]:
    """Where a network computes otherwise than the one that its weights come from, though names and
    shapes are the same."""
    if not method:
        return []
    found = differing(trainer.method, make_method(method), parts_of(named))
    return [f"its weights were made for another network: {', '.join(found)}"] if found else []


def fitting(parts: Mapping[str, str], method: Mapping[str, Any], trainer: Trainer) -> list[str]:
    """What a recipe has to say so that weights of another network fit; [] where that is not known.

    parts: {our part: theirs}; method: their config.
    """
    if not method:
        return []
    ours = trainer.config.method
    theirs = keep_new_rows(unlike_fields(trainer.method, make_method(method), parts), ours)
    flags, others = [], []
    for key, value in theirs.items():
        part, _, field = key.partition(".")
        said = f"method.{key}={value}"
        known = field != "name" and field in (ours.get(part) or {})
        (flags if known else others).append(shlex.quote(f"--config.{said}") if known else said)
    lines = [f"its network is another one; give {' '.join(flags)}"] if flags else []
    lines += [f"a recipe of your own says {', '.join(others)}"] if others else []
    return ["; ".join(lines)] if lines else []


def other_pictures(theirs: Mapping[str, Any], trainer: Trainer) -> list[str]:
    """Where a run, which follows its recipe, prepares pictures otherwise than the source of its
    weights."""
    if not theirs:
        return []
    method = trainer.method
    ours = {**vars(trainer.context.framing), "mean": method.image_mean, "std": method.image_std}
    keys = ["mean", "std", "crop", "share", "resample", "alpha"]
    keys += ["fill"] if theirs["crop"] == "pad" else []
    found = []
    for key in keys:
        mine, its = ours[key], theirs[key]
        if mine != its if isinstance(mine, str) else not np.allclose(mine, its, atol=1e-6):
            found.append(
                f"its pictures were made with {key}={its}, this run makes them with {mine}"
            )
    return found

"""Drawn pictures beside real ones: FID, KID, precision and recall, Inception Score, CMMD, CLIP
score, and how many of them a classifier recognises.

All are of features of networks named by their path, and called after them: `fid` is of the
Inception that FID is defined on, `fid_classifier` of a classifier trained here (arithmetic and
sources: evals/kits/distances.py, pictures: evals/kits/views.py). Papers draw 50,000 pictures beside
their training set, of texts 30,000 of COCO's prompts. The file exists to measure any method with a
function `generate_image`, and any folder of pictures without a model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Label, Text
from vlp_jax.core.schema import Range, Size
from vlp_jax.data.labels import class_list
from vlp_jax.data.source import Source, captioned, check_key
from vlp_jax.evals.base import EvalFn, Learner, Result
from vlp_jax.evals.kits import figures
from vlp_jax.evals.kits.drawing import DRAW, Asked, Words, ask, conditions, draw
from vlp_jax.evals.kits.figures import Curves, Figure, Panels, evenly
from vlp_jax.evals.kits.judging import Made, Real, Rules, judge, see
from vlp_jax.evals.kits.networks import First, Found, Network, open_networks
from vlp_jax.evals.kits.samples import check_labels, open_samples, read_captions, read_values
from vlp_jax.evals.kits.views import Drawn

WIDE = 8  # pictures in a row of a sheet of one guidance


@dataclasses.dataclass(frozen=True)
class Generation(Learner):
    """Config keys: path: data set, whose captions or classes are drawn and whose pictures are the
    real ones. networks: checkpoints that judge, with commas: one with features gives fid, kid,
    precision and recall, a classifier is and accuracy too, a CLIP cmmd and clip_score. samples:
    pictures in place of drawn ones (a folder, tars); no model is needed then. caption: JSON key of
    prompts ('' = the sample's captions). prefix: put before each. label: JSON key of classes, for
    accuracy and for methods that draw classes. train: the data set whose words number the model's
    classes ('' = path itself). count: pictures drawn, of the samples in turn (0: one each). limit:
    real pictures (0: all). size: sides that pictures are brought to before a network's own rule (0:
    the model's; where samples are given none). guidances: the whole once for each, `how` besides.
    compare: False where path has no pictures. resize: rule of a converted Inception in place of its
    own (views.py). neighbours: of precision and recall. kid_subsets, kid_size, splits: of KID and
    the Inception Score. shown: rows of the sheet.
    """

    networks: tuple[str, ...] | str = ()
    samples: str | Source = ""
    caption: str = ""
    prefix: str = ""
    label: str = ""
    count: int = 0
    limit: int = 0
    size: int = 0
    guidances: tuple[float, ...] = ()
    compare: bool = True
    resize: Literal["", "tensorflow", "clean"] = ""
    neighbours: Size = 3
    kid_subsets: Size = 100
    kid_size: Annotated[int, Range(2)] = 1000
    splits: Size = 10
    shown: int = 6

    def __post_init__(self) -> None:
        for key in ("count", "limit", "size", "shown"):
            if getattr(self, key) < 0:
                raise UserError(f"generation.{key} is {getattr(self, key)}, it must be >= 0")
        if self.samples and (self.guidances or self.count):
            key = "guidances" if self.guidances else "count"
            raise UserError(f"generation.{key}: says how to draw, but `samples` are given")

    @property
    def requires(self) -> tuple[str, ...]:
        """What draws, unless samples are given."""
        return () if self.samples else (DRAW,)

    def hows(self) -> tuple[Mapping[str, Any], ...]:
        """One for every guidance."""
        return tuple({**self.how, "guidance": g} for g in self.guidances) or (self.how,)

    def sets(self) -> dict[str, str | Source]:
        """train, path and samples."""
        return {**super().sets(), "samples": self.samples}

    def check(self, sources: Mapping[str, Source], where: str) -> None:
        """The networks are there, and the sets say what will be drawn."""
        try:
            if self.context.network or not self.networks:  # `plan` opens none
                open_networks(self.networks, self.context, self.resize)
            needed = conditions(self.reads.get(DRAW, {})).values()
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        path = sources.get("path")
        if any(isinstance(field, Text) for field in needed) and path is not None:
            if self.caption:
                check_key(path, self.caption, f"{where}.caption")
            elif not captioned(path):
                raise UserError(f"{where}: no captions in {self.path!r}; {where}.path needs some")
        if any(isinstance(field, Label) for field in needed) and not self.label:
            raise UserError(f"{where}.label: the model draws classes; set it to their JSON key")
        judged = ("samples",) if self.samples else ("path", "train")
        labelled = {key: source for key, source in sources.items() if key in judged}
        check_labels(labelled, self.label, where)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns the metrics that the networks give, `NAME_at_G` for several guidances; tables
        `guidance` and `per_class`; figures `drawn`, `guidance` and `per_class`.

        Raises:
          UserError: fewer than two pictures; a class that the model or the classifier has not.
        """
        networks = open_networks(self.networks, self.context, self.resize)
        label = "" if self.samples else self.label
        real = (
            Real(open_samples(self.path, self.limit, label), self.first) if self.compare else None
        )
        if self.samples:
            runs = [(self.how, lambda: self._given(networks))]
        else:
            asked = self._asked()
            runs = [(how, self._drawer(networks, fns[DRAW], asked, how)) for how in self.hows()]
        found, sheets, classes = [], [], []
        for how, make in runs:
            made = make()
            metrics: dict[str, float] = {}
            for network in networks:
                more, table = judge(network, made, real, self.rules)
                metrics |= more
                classes = table or classes
            found.append((how, metrics))
            sheets.append(made.shown)
        return self._result(found, sheets, classes, self._protocol(networks, made, real))

    @property
    def side(self) -> int:
        """Of pictures before a network's own rule; 0: as they are."""
        return self.size or (0 if self.samples else self.context.image_size)

    @property
    def first(self) -> First:
        """What real and given pictures are brought to."""
        return (self.side, self.context.framing) if self.side else None

    @property
    def rules(self) -> Rules:
        """Of the figures."""
        return Rules(self.neighbours, self.kid_subsets, self.kid_size, self.splits)

    def _asked(self) -> Asked:
        """What is drawn; of fewer pictures than there are samples, such as stand for all."""
        source = open_samples(self.path, self.count, self.label)
        classes: dict[Any, int] = {}
        fields = self.reads.get(DRAW, {}).values()
        if any(isinstance(field, Label) and not field.optional for field in fields):
            names = class_list(open_samples(self.train or self.path), self.label, "label")
            size = next(field.classes for field in fields if isinstance(field, Label))
            classes = {name: i for i, name in enumerate(names or range(size))}
        words = Words(self.caption, self.prefix, self.label, classes)
        return ask(source, self.reads.get(DRAW, {}), words, self.count, self.context)

    def _drawer(
        self, networks: Sequence[Network], fn: EvalFn, asked: Asked, how: Mapping[str, Any]
    ) -> Callable[[], Made]:
        """f() -> what is drawn under these options, judged block by block."""

        def make() -> Made:
            count = asked.count
            sheet = evenly(count, self.shown * (1 if self.guidances else WIDE))
            parts, shown, start = [], [], 0
            for block in draw(fn, asked, self.context, how):
                parts.append(see(networks, Drawn(block), None, self.compare, bool(asked.texts)))
                mine = sheet[(sheet >= start) & (sheet < start + len(block))]
                shown.append(block[mine - start])
                start += len(block)
            found = {
                label: {name: _joined([part[label][name] for part in parts]) for name in one}
                for label, one in parts[0].items()
            }
            return Made(found, asked.texts, asked.labels, np.concatenate(shown))

        return make

    def _given(self, networks: Sequence[Network]) -> Made:
        """The given samples, judged."""
        source = open_samples(self.samples)
        texts = read_captions(source, self.caption, first=1) if captioned(source) else []
        texts = [self.prefix + one[0] if one else "" for one in texts]
        labels = read_values(source, self.label) if self.label else ()
        return Made(see(networks, source, self.first, self.compare, any(texts)), texts, labels)

    def _result(
        self,
        found: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]],
        sheets: Sequence[np.ndarray | None],
        classes: list[dict[str, Any]],
        protocol: Mapping[str, Any],
    ) -> Result:
        """Everything in its place."""
        drawn: dict[str, Figure] = {}
        tables, metrics = {"per_class": classes} if classes else {}, dict(found[0][1])
        titles = [f"guidance {g:g}" for g in self.guidances]
        if self.shown and sheets[0] is not None:
            drawn["drawn"] = Panels(": drawn", _panels(sheets, bool(titles)), titles)
        if self.guidances:
            told = [n for n in metrics if not n.startswith("chance_") and not n.endswith("_std")]
            lines = {name: [own[name] for _, own in found] for name in told}
            drawn["guidance"] = Curves(": guidance", "guidance", self.guidances, lines)
            tables["guidance"] = [{"guidance": how["guidance"], **own} for how, own in found]
            metrics = {
                f"{name}_at_{how['guidance']:g}": value
                for how, own in found
                for name, value in own.items()
            }
        drawn |= figures.per_class(classes)
        return Result(metrics, tables, drawn, {"protocol": protocol})

    def _protocol(
        self, networks: Sequence[Network], made: Made, real: Real | None
    ) -> dict[str, Any]:
        return {
            "networks": {n.label: f"{n.digest[:12]}, resize: {n.resize}" for n in networks},
            "given" if self.samples else "drawn": made.count,
            "real": len(real.source) if real else 0,
            "side": self.side or "as they are",
            "kid": f"{self.kid_subsets} subsets of at most {self.kid_size}",
            "neighbours": self.neighbours,
            "splits": self.splits,
            "prefix": self.prefix,
            "options": dict(self.how),
        }


def _joined(parts: Sequence[Found]) -> Found:
    """Blocks one after another; the samples of each are numbered from 0."""
    rows = np.concatenate([part.rows for part in parts])
    return Found(rows, np.arange(len(rows)))


def _panels(sheets: Sequence[np.ndarray], several: bool) -> np.ndarray:
    """float32[N, P, H, W, 3] in [0, 1]: a column for each sheet, or one sheet in rows."""
    if several:
        return np.stack(sheets, axis=1).astype(np.float32) / 255
    (sheet,) = sheets
    wide = min(WIDE, len(sheet))
    sheet = sheet[: len(sheet) // wide * wide].astype(np.float32) / 255
    return sheet.reshape(-1, wide, *sheet.shape[1:])

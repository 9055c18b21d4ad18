"""Networks that judge pictures, named by their path: what they find in a set, and what is kept of
it.

The file exists so that a figure of generated pictures says by whose features it was found, and so
that those of a large real set are computed once for the same pictures and the same weights.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data import kept
from vlp_jax.data.framing import Framing
from vlp_jax.data.source import Source, digest, pictures_stamp
from vlp_jax.evals.base import EvalContext, EvalFn, embed_texts
from vlp_jax.evals.kits.distances import Moments, moments
from vlp_jax.evals.kits.samples import embed_read
from vlp_jax.evals.kits.views import FLOATS, OWN, View

# the network that a figure without an addition to its name is of
PUBLISHED = {
    **dict.fromkeys(("fid", "kid", "is", "precision", "recall"), "fid_inception_v3"),
    "cmmd": "vit_l_14_336",
    "clip_score": "vit_l_14",
}
First = tuple[int, Framing] | None  # what pictures are brought to before a network's own rule


@dataclasses.dataclass(frozen=True)
class Found:
    """What a function of a network gives of a set: float32[K, D] and int[K], the samples."""

    rows: np.ndarray
    samples: np.ndarray

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance of the rows."""
        return moments(self.rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A checkpoint that judges.

    Attributes:
      label: what it is: `classifier` and `own_METHOD` of a training here, else its architecture.
      digest: of its weights and preprocessing.
      fns: its functions by name, as an evaluator calls them.
      context: its own tokenizer and pictures.
      resize: `own`, or the rule of evals/kits/views.py that its figures are defined on.
      classes: f() -> its classes' words in order, () where they are numbers.
      known: what it found in real pictures.
    """

    label: str
    digest: str
    fns: Mapping[str, EvalFn]
    context: EvalContext
    resize: str = OWN
    classes: Callable[[], Sequence[str]] = tuple
    known: dict[str, Found] = dataclasses.field(default_factory=dict)

    def named(self, figure: str) -> str:
        """What a figure of this network is called: `fid_classifier`; `fid` alone where it is the
        published one, `fid_clean` by clean-fid's rule."""
        stem = figure.removesuffix("_std")
        own = f"{stem}_{self.label}"
        if self.label == PUBLISHED.get(stem):
            own = f"{stem}_clean" if self.resize == "clean" else stem
        return own + figure.removeprefix(stem)

    def resized(self, rule: str) -> "Network":
        """By another rule where it has one of FLOATS; "" changes nothing."""
        return dataclasses.replace(self, resize=rule) if rule and self.resize in FLOATS else self

    def see(self, name: str, pictures: Source, first: First = None) -> Found:
        """A function over every picture of a source. Raises RunError as `embed_pictures`."""
        rows, samples = embed_read(
            self.fns[name], pictures, {"image": self._view(first)}, self.context
        )
        return Found(rows.reshape(len(rows), -1), samples)

    def _view(self, first: First) -> View:
        return View(self.resize, self.context.image_size, self.context.framing, first)

    def know(self, name: str, pictures: Source, first: First = None) -> Found:
        """As `see`, but of what stays the same: once in a run, and, in a run of one process, once
        for all for the same pictures and weights; the moments too."""
        data = digest([pictures.fingerprint, pictures_stamp(pictures)])
        facts = {"network": self.digest, "data": data, "function": name, "form": 1}
        facts |= self._view(first).settings()
        key = digest([str(facts)])
        make = lambda: self.see(name, pictures, first)  # noqa: E731
        if key not in self.known:
            alone = self.context.process_count == 1  # several might not all find the file
            self.known[key] = _kept(key, facts, make) if alone else make()
        return self.known[key]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, E] of texts."""
        return embed_texts(self.fns["embed_text"], texts, self.context)


def _kept(key: str, facts: Mapping[str, Any], make: Callable[[], Found]) -> Found:
    """What is kept of exactly these facts, else what `make` gives, which is kept from then on."""
    path = os.path.join(kept.folder("features"), f"{key}.npz")
    there = kept.read_several(path, facts)
    if there is not None:
        found = Found(there["rows"], there["samples"])
        found.__dict__["moments"] = Moments(there["mean"], there["covariance"])
        return found
    found = make()
    arrays = {"rows": found.rows, "samples": found.samples, **found.moments._asdict()}
    kept.save_several(arrays, path, facts, "features of pictures")
    return found


def open_networks(paths: str | Sequence[str], context: EvalContext, rule: str) -> list[Network]:
    """The networks of a config: paths, or one text of them with commas; rule: see `resized`.

    Raises:
      UserError: none, one that is not there, or two of one label.
    """
    names = paths.split(",") if isinstance(paths, str) else paths
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise UserError("networks: none; name checkpoints that judge, as networks=FOLDER,FOLDER")
    if context.network is None:
        raise UserError(f"networks={names[0]}: this evaluation cannot open checkpoints")
    found: dict[str, str] = {}
    made = []
    for name in names:
        try:
            network = context.network(name)
        except UserError as error:
            told = re.sub("^--checkpoint: ", "", str(error))
            raise UserError(f"networks: {told}") from error
        if network.label in found:
            pair = f"{found[network.label]} and {name}"
            raise UserError(f"networks: {pair} are both {network.label!r}; their figures would mix")
        found[network.label] = name
        made.append(network.resized(rule))
    return made

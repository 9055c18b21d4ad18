"""Several sources as one: their concatenation, and orders that mix them by weight.

The file exists so that a mixture is only an order over indices: nothing is copied, and a position
still tells everything about a resume.
"""

import bisect
import functools
import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.cache import is_cache, read_manifest
from vlp_jax.data.content import contents
from vlp_jax.data.damage import Damage
from vlp_jax.data.filters import Filtered, apply_filters, shown
from vlp_jax.data.holdout import training_part
from vlp_jax.data.open import open_source
from vlp_jax.data.order import mix64, position_to_index
from vlp_jax.data.shard import expand_shards
from vlp_jax.data.source import Example, Source, digest
from vlp_jax.data.walk import tell

_log = logging.getLogger(__name__)
_TABLE = 4096  # weights are rounded to 1/4096


class Concat:
    """Sources end to end; meta gains 'source', the number of the source a sample came from."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = list(sources)
        self._ends = list(itertools.accumulate(len(s) for s in self.sources))
        self.damage = [damage for source in self.sources for damage in source.damage]
        self.fingerprint = digest(source.fingerprint for source in self.sources)

    @property
    def stamp(self) -> str:
        """Changes with the captions of a part whose fingerprint does not cover them."""
        stamps = [getattr(source, "stamp", "") for source in self.sources]
        return digest(stamps) if any(stamps) else ""

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, i: int) -> tuple[int, int]:
        at = bisect.bisect_right(self._ends, i)
        if not 0 <= i < len(self):
            raise IndexError(i)
        return at, i - (self._ends[at - 1] if at else 0)

    def where(self, i: int) -> str:
        at, inner = self._locate(i)
        return self.sources[at].where(inner)

    def metadata(self, i: int) -> Example:
        at, inner = self._locate(i)
        return _tagged(self.sources[at].metadata(inner), at)

    def __getitem__(self, i: int) -> Example:
        at, inner = self._locate(i)
        return _tagged(self.sources[at][inner], at)

    def contents(self, rows: np.ndarray) -> np.ndarray:
        """See `content.contents`."""
        at = np.searchsorted(self._ends, rows, side="right")
        found = np.zeros(len(rows), np.uint64)
        for number, source in enumerate(self.sources):
            mine = at == number
            found[mine] = contents(source, rows[mine] - (self._ends[number] - len(source)))
        return found

    def sizes(self, rows: np.ndarray | None = None) -> list[int]:
        """How many samples, or how many of rising `rows`, each source has."""
        ends = self._ends if rows is None else np.searchsorted(rows, self._ends)
        return np.diff(ends, prepend=0).tolist()


def _tagged(example: Example, source: int) -> Example:
    return {**example, "meta": {**example["meta"], "source": source}}


class PlainOrder:
    """Every example once per epoch, in the order of `order.position_to_index`."""

    def __init__(self, n: int, seed: int, mode: str):
        self.n, self.seed, self.mode = n, seed, mode

    def epoch(self, position: int) -> tuple[int, int]:
        return divmod(int(position), self.n)

    def index(self, positions: np.ndarray) -> np.ndarray:
        """Stream positions int[k] -> indices int64[k]."""
        positions = np.asarray(positions)
        return position_to_index(
            self.seed, positions // self.n, positions % self.n, self.n, self.mode
        )


class WeightedOrder:
    """Draws source s with share weights[s]; each source runs through its own epochs without
    repeats.

    A shuffled table of 4,096 entries says whose turn it is; how often each source was drawn before
    any position follows in closed form, so this order is as stateless as the plain one.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int, mode: str):
        self.sizes, self.seed, self.mode = np.asarray(sizes, np.int64), seed, mode
        self.n = int(self.sizes.sum())
        self._starts = np.cumsum(self.sizes) - self.sizes
        edges = np.cumsum(np.asarray(weights, np.float64) / np.sum(weights))
        turn = np.searchsorted(edges, (np.arange(_TABLE) + 0.5) / _TABLE)
        turn = turn[np.argsort(mix64(seed, np.arange(_TABLE), 7), kind="stable")]
        drawn = turn[:, None] == np.arange(len(sizes))
        self._turn, self._before = turn, np.cumsum(drawn, 0) - drawn  # [T], [T, sources]
        self._count = drawn.sum(0)

    def epoch(self, position: int) -> tuple[int, int]:
        return divmod(int(position), self.n)

    def index(self, positions: np.ndarray) -> np.ndarray:
        """Stream positions int[k] -> indices int64[k] into the concatenation."""
        turns, slot = np.divmod(np.asarray(positions, np.int64), _TABLE)
        chosen = self._turn[slot]
        count = turns * self._count[chosen] + self._before[slot, chosen]
        found = np.empty_like(count)
        for source in np.unique(chosen):
            mine, size = chosen == source, int(self.sizes[source])
            epoch, place = np.divmod(count[mine], size)
            seed = mix64(self.seed, source, 8)[0]  # a sum of the two would be another run's
            inner = position_to_index(seed, epoch, place, size, self.mode)
            found[mine] = inner + self._starts[source]
        return found


def split_paths(path: str) -> list[str]:
    """The parts of a comma-separated mixture; commas inside braces belong to their pattern."""
    parts, depth, current = [], 0, ""
    for letter in path:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts, current = [*parts, current], ""
        else:
            current += letter
    return [part.strip() for part in [*parts, current] if part.strip()]


def _weights(weights: Sequence[float], paths: list[str]) -> Sequence[float]:
    good = len(weights) == len(paths) and all(w >= 0 for w in weights) and sum(weights) > 0
    if not good:
        raise UserError(
            f"data.weights={tuple(weights)} does not fit the {len(paths)} sources of data.path"
        )
    if any(0 < w / sum(weights) < 1 / _TABLE for w in weights):
        raise UserError(f"data.weights={tuple(weights)}: shares below 1/{_TABLE} are not supported")
    return weights


def open_mixture(
    path: str,
    weights: Sequence[float],
    seed: int,
    mode: str,
    holdout: float = 0.0,
    filters: Mapping[str, Any] | None = None,
):
    """Opens `data.path` -> (source, order): one source, or several separated by commas with
    weights; without what `holdout` keeps back and what data/filters.py takes.

    Without weights the sources are one pool and every example comes once per epoch. Raises
    UserError.
    """
    paths = paths_of(path)
    if weights:
        _weights(weights, paths)
    position_to_index(seed, 0, 0, 1, mode)  # an unknown mode is refused here
    pool = open_pool(path)
    try:
        source = training_part(pool, holdout)
    except UserError as error:
        raise UserError(f"{path!r}: {error}") from error
    if holdout:
        held = len(pool) - len(source)
        tell(f"{path}: {held} of {len(pool)} samples are held out (data.holdout={holdout:g})")
    found = apply_filters(source, filters or {})
    if isinstance(found, Filtered):
        left = f"{len(found):,} of {len(source):,} samples are left by data.filters"
        tell(f"{path}: {left}; {shown(found.counts) or 'nothing'} went")
    source = found
    if not weights or len(paths) == 1:
        return source, PlainOrder(len(source), seed, mode)
    sizes = pool.sizes(getattr(source, "rows", None))
    if 0 in sizes:
        what = "data.filters" if filters else f"data.holdout={holdout}"
        raise UserError(f"{what}: nothing is left of {paths[sizes.index(0)]!r}")
    return source, WeightedOrder(sizes, weights, seed, mode)


def open_pool(path: str) -> Source:
    """One source, or several separated by commas end to end; what their listings know to be lost is
    logged. Raises UserError."""
    parts = paths_of(path)
    sources = [open_source(part) for part in parts]
    for part, source in zip(parts, sources, strict=True):
        _tell_damage(part, source.damage)
    return sources[0] if len(sources) == 1 else Concat(sources)


def _tell_damage(path: str, damage: Sequence[Damage]) -> None:
    if damage:
        counts = Counter(found.reason for found in damage).most_common()
        shown = ", ".join(f"{reason} {count}" for reason, count in counts)
        _warn(f"{path}: lost: {shown}; first {damage[0].where} (`data check` names all)")


@functools.lru_cache
def _warn(line: str) -> None:
    """Logs a line once, however often a run opens its sources."""
    _log.warning(line)


def look_for(path: str) -> None:
    """Raises UserError where tars that a path names are not there, before anything is read."""
    for part in map(os.path.expanduser, paths_of(path)):
        if part.startswith(("builtin:", "tfds:", "pipe:")):
            continue
        if ".tar" in os.path.basename(part).lower() and not os.path.isdir(part):
            expand_shards(part)


def paths_of(path: str) -> list[str]:
    """The data sets that a path names."""
    exists = os.path.exists(os.path.expanduser(path))  # a comma in a folder's own name
    return [path] if exists else split_paths(path) or [path]


def manifests(path: str) -> list[dict[str, Any]]:
    """The manifests of the caches that `data.path` names; [] where it names anything else beside or
    instead. Raises UserError."""
    parts = [os.path.expanduser(part) for part in paths_of(path)] if path else []
    whole = parts and all(os.path.isdir(part) and is_cache(part) for part in parts)
    return [read_manifest(part) for part in parts] if whole else []

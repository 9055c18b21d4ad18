"""What a model was trained on, and what of an evaluation set that is.

The file exists so that no number is reported on training pictures without a word, and so that one
path can serve both where `data.holdout` keeps a part of it back.
"""

from functools import cached_property

import numpy as np

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.content import contents
from vlp_jax.data.holdout import Holdout
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.source import Source
from vlp_jax.data.subset import LOOKED_AT, Subset

COMPARED = 2**26  # pictures: half a gigabyte of checksums


class Trained:
    """The training data of a run, as its config has it; path '' is unknown.

    known_edge, digest: of its run.json, which hold where the data has changed since; 0 and '' for
    a run that begins.
    """

    def __init__(self, path: str = "", holdout: float = 0.0, known_edge: int = 0, digest: str = ""):
        self.path, self.holdout = path, holdout
        self._known_edge, self._digest = known_edge, digest
        self._seen: dict[str, str] = {}

    @cached_property
    def whole(self) -> Source | None:
        """All that `data.path` names; None where that is unknown or not at hand any more."""
        try:
            return open_pool(self.path) if self.path else None
        except (UserError, RunError, OSError):
            return None

    @cached_property
    def rule(self) -> Holdout | None:
        """What is held out of it, if anything."""
        if not (self.whole and self.holdout):
            return None
        if self._known_edge:
            return Holdout(self.holdout, self._known_edge)
        return Holdout.of(self.whole, self.holdout)

    @property
    def edge(self) -> int:
        """Of the rule, for the run's record; 0 without one."""
        return self.rule.edge if self.rule else 0

    def part(self, path: str, held: bool) -> str | Source:
        """Data for an evaluator: the held-out part (or the other one, to learn from) where `path`
        has the listing of the training data or of one of its sources, else `path` itself.

        Raises:
          UserError: the path names no data set, or nothing of it is held out.
        """
        if self.rule is None:
            return path
        source = open_pool(path)
        whole, parts = self.whole, getattr(source, "sources", [source])
        known = {part.fingerprint for part in (whole, *getattr(whole, "sources", ()))}
        if source.fingerprint not in known and not {p.fingerprint for p in parts} <= known:
            return path
        found = self.rule.part(source, held)
        if not len(found):
            raise UserError(
                f"data.holdout={self.holdout}: holds nothing of {path!r} out; give a larger share "
                "or evaluate on another path"
            )
        found.name = f"{path} ({'held out' if held else 'without what is held out'})"
        return found

    def seen(self, source: Source) -> str:
        """How many pictures of an evaluation set were trained on, in words; '' where that is
        unknown: no training data at hand, or too many pictures to read for it.
        """
        if self.whole is None or not (_cheap(source) and _cheap(self.whole)):
            return ""
        key = source.fingerprint
        if key not in self._seen:
            whole = self.whole if self.rule is None else self.rule.part(self.whole, held=False)
            if self._digest not in ("", whole.fingerprint):
                return "unknown: the training data has changed since"
            mine = contents(source)
            count = int((np.isin(mine, contents(whole)) & (mine != 0)).sum())
            self._seen[key] = f"{count} of {len(mine)} pictures"
        return self._seen[key]


def _cheap(source: Source) -> bool:
    """Whether the contents are few enough to be compared, and in an index or few enough to be
    read."""
    while isinstance(source, Subset):
        source = source.whole
    parts = getattr(source, "sources", [source])
    read = sum(len(part) for part in parts if not hasattr(part, "contents"))
    return len(source) <= COMPARED and read <= LOOKED_AT

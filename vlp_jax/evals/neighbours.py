"""Which pictures a model finds alike: some of a set, each beside its nearest others.

The file exists so that features without labels, captions or a picture as their answer (SimCLR's)
can be looked at on one's own pictures.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.source import Source
from vlp_jax.evals.base import EvalContext, EvalFn, Result, require_fns, unit
from vlp_jax.evals.ranking import nearest_neighbours
from vlp_jax.evals.samples import embed_pictures, open_samples


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Config keys: path: data set. limit: so many of its pictures (0 = all). shown: pictures on the
    sheet. count: neighbours beside each.
    """

    context: EvalContext
    path: str | Source = ""
    limit: int = 1000
    shown: int = 8
    count: int = 6

    requires: ClassVar[tuple[str, ...]] = ("features",)

    def __post_init__(self) -> None:
        if self.shown < 1 or self.count < 1:
            raise UserError(f"neighbours needs shown, count >= 1, got {self.shown}, {self.count}")

    def __call__(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics nearest_cosine, the mean over pictures of the cosine to the nearest other
        one, and chance_nearest_cosine, that of two different pictures; details hold `neighbours`
        int[shown, 1 + count], rows of `kept`: a picture, then its nearest others.

        Raises:
          UserError: fewer than two pictures that can be read.
        """
        require_fns(self, fns)
        source = open_samples(self.path, self.limit)
        rows, kept = embed_pictures(fns["features"], source, self.context)
        total = len(rows)
        if total < 2:
            raise UserError("neighbours: needs at least 2 pictures that can be read")
        rows = unit(rows)
        scores, ids = nearest_neighbours(rows, rows, self.count + 1)
        others = ids != np.arange(total)[:, None]
        others[others.all(axis=1), -1] = False  # a copy of many: it is not among its own nearest
        nearest = scores[others].reshape(total, -1)[:, 0]
        sum_of_all = np.square(rows.sum(axis=0, dtype=np.float64)).sum()
        metrics = {
            "nearest_cosine": float(nearest.mean()),
            "chance_nearest_cosine": float((sum_of_all - total) / (total * (total - 1))),
        }
        some = np.arange(min(self.shown, total)) * total // min(self.shown, total)
        found = np.column_stack([some, ids[others].reshape(total, -1)[some]])
        details = {"neighbours": found, "source": source, "kept": kept}
        return Result(metrics, {}, {**details, "protocol": {"images": total}})
